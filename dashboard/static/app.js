// What htmx cannot say in attributes. Every page works without any script; this
// keeps what an operator has typed when the session ends or the gateway restarts
// under an open page.
(function () {
  "use strict";

  // tell shows a sentence above the page, once, until it does not hold any more.
  function tell(id, text, link) {
    if (document.getElementById(id)) return;
    var note = document.createElement("p");
    note.id = id;
    note.className = "note failed";
    note.setAttribute("role", "alert");
    note.textContent = text + " ";
    if (link) {
      var a = document.createElement("a");
      a.href = link.href;
      a.target = "_blank";
      a.textContent = link.text;
      note.append(a);
    }
    document.getElementById("main").prepend(note);
  }

  function untell(id) {
    var note = document.getElementById(id);
    if (note) note.remove();
  }

  function ended() {
    tell("session-ended", "Your session has ended. Nothing that you typed is lost: log in in another tab, then go on here.", { href: "/login", text: "Log in" });
  }

  // dirty says whether an operator is in the middle of something inside element.
  function dirty(element) {
    if (element.contains(document.activeElement) && document.activeElement.matches("input, textarea, select")) return true;
    return Array.from(element.querySelectorAll("input, textarea")).some(function (f) {
      return f.type === "checkbox" || f.type === "radio" ? f.checked !== f.defaultChecked : f.type !== "hidden" && f.value !== f.defaultValue;
    });
  }

  document.addEventListener("htmx:beforeSwap", function (e) {
    var status = e.detail.xhr.status;
    if (status === 401) {
      e.detail.shouldSwap = false;
      ended();
      return;
    }
    untell("session-ended");
    untell("gateway-gone");
    // A part of the page that renews itself waits until nobody types in it.
    var renews = e.detail.requestConfig && e.detail.requestConfig.verb === "get" && e.detail.elt.matches("[data-live], [data-count]");
    if (renews && (status >= 400 || dirty(e.detail.target))) e.detail.shouldSwap = false;
    if (renews && status < 400 && e.detail.elt.hasAttribute("data-keep")) {
      e.detail.shouldSwap = false;
      keepCards(e.detail.elt, e.detail.serverResponse);
    }
    // A form that replaces its own card only keeps it where the answer has none.
    var card = e.detail.elt.matches("form[hx-select]") && e.detail.elt.getAttribute("hx-select");
    if (card && !parsed(e.detail.serverResponse).querySelector(card)) {
      e.detail.shouldSwap = false;
      tell("not-done", "The gateway did not do that. Reload the page to see why.");
    } else if (card) {
      decided = { card: card, height: e.detail.target.getBoundingClientRect().height };
    }
  });

  // The card that was decided on keeps its height: the second half of a double
  // click must not meet the next one's button.
  var decided = null;
  document.addEventListener("htmx:afterSwap", function () {
    var card = decided && document.querySelector(decided.card);
    if (card) card.style.minHeight = decided.height + "px";
    decided = null;
  });

  // A part with data-keep (approvals, pending registrations) keeps its cards where they are, under the
  // thumb, and with what is typed in them. New ones come behind them. One that does
  // not wait any more says so in its place and goes later, where no other moves for
  // it: who asks and goes again must not put its button where another's was. With
  // data-keep="renew" a card that reads otherwise now is renewed in its place.
  function keepCards(part, page) {
    var fresh = parsed(page).getElementById(part.id);
    if (!fresh) return;
    var waits = new Set();
    fresh.querySelectorAll("[data-card]").forEach(function (card) {
      waits.add(card.id);
      var old = document.getElementById(card.id);
      if (old && (part.getAttribute("data-keep") !== "renew" || dirty(old) || old.outerHTML === card.outerHTML)) return;
      var added = document.importNode(card, true);
      if (old) old.replaceWith(added);
      else part.append(added);
      window.htmx.process(added);
    });
    part.querySelectorAll("[data-card]").forEach(function (card) {
      if (waits.has(card.id)) return;
      if (!card.matches("article") || (card.hasAttribute("data-over") && !dirty(card) && mayGo(card, part))) {
        card.remove();
        return;
      }
      card.style.minHeight = card.getBoundingClientRect().height + "px";
      card.setAttribute("data-over", "");
      var form = card.querySelector("form");
      if (!form || form.querySelector("button:disabled")) return;
      form.querySelectorAll("button").forEach(function (b) { b.disabled = true; });
      var note = document.createElement("p");
      note.className = "note warn";
      note.setAttribute("role", "status");
      note.textContent = "It does not wait any more. ";
      var link = document.createElement("a");
      link.href = form.getAttribute("action");
      link.textContent = "What has become of it";
      note.append(link);
      if (dirty(card)) form.before(note);
      else form.replaceChildren(note);
    });
  }

  // mayGo says whether a card that is over moves nothing that is in sight by going.
  // However many come and go, 64 stay at most.
  function mayGo(card, part) {
    return card.getBoundingClientRect().top >= window.innerHeight || !part.querySelector("article:not([data-over])") || part.querySelectorAll("[data-over]").length > 64;
  }

  function parsed(page) {
    return new DOMParser().parseFromString(page, "text/html");
  }

  function gone() {
    tell("gateway-gone", "The gateway does not answer. Nothing that you typed is lost: try again in a moment.");
  }

  document.addEventListener("htmx:sendError", gone);

  // The title counts what waits, as the navigation does.
  document.addEventListener("htmx:afterSettle", function () {
    var held = document.querySelector("#count-approvals .count");
    var title = document.title.replace(/^\(\d+\) /, "");
    document.title = held ? "(" + parseInt(held.textContent, 10) + ") " + title : title;
  });

  // Stream is what /api/live sends. It is there while the page is looked at: over
  // HTTP/1.1 a browser has six connections to the gateway for all its tabs. It comes
  // back by itself after the gateway or the session has; what it may have missed
  // meanwhile is taken to have changed.
  class Stream extends EventTarget {
    constructor(url) {
      super();
      this.url = url;
      this.names = new Set();
      this.missed = false;
      this.look = this.look.bind(this);
      document.addEventListener("visibilitychange", this.look);
      window.addEventListener("focus", this.look);
      this.look();
    }

    // readyState never says that it is over before close: htmx would open another.
    get readyState() {
      return this.over ? EventSource.CLOSED : this.source ? this.source.readyState : EventSource.CONNECTING;
    }

    addEventListener(name, listener) {
      super.addEventListener(name, listener);
      if (this.names.has(name)) return;
      this.names.add(name);
      if (this.source) this.pass(name);
    }

    pass(name) {
      this.source.addEventListener(name, () => this.dispatchEvent(new MessageEvent(name, { data: "" })));
    }

    // look connects a page that is looked at, and no other.
    look() {
      if (document.hidden) this.drop();
      else this.connect();
    }

    connect() {
      clearTimeout(this.timer);
      if (this.over || this.source) return;
      var source = (this.source = new EventSource(this.url));
      this.names.forEach((name) => this.pass(name));
      source.addEventListener("ended", () => {
        ended();
        this.drop();
        this.timer = setTimeout(this.look, 15000);
      });
      source.onopen = () => {
        untell("gateway-gone");
        untell("session-ended");
        if (this.onopen) this.onopen();
        if (this.missed) this.names.forEach((name) => this.dispatchEvent(new MessageEvent(name, { data: "" })));
        this.missed = false;
      };
      source.onerror = () => {
        this.missed = true;
        if (source.readyState === EventSource.CONNECTING) {
          gone();
          return;
        }
        // It does not say what was answered.
        this.drop();
        this.timer = setTimeout(this.look, 5000);
        fetch("/api/sessions").then(function (answer) {
          untell("gateway-gone");
          if (answer.status === 401) ended();
        }, gone);
      };
    }

    drop() {
      clearTimeout(this.timer);
      if (!this.source) return;
      this.source.close();
      this.source = null;
      this.missed = true;
    }

    close() {
      this.over = true;
      this.drop();
      document.removeEventListener("visibilitychange", this.look);
      window.removeEventListener("focus", this.look);
    }
  }

  htmx.createEventSource = function (url) {
    return url === "/api/live" ? new Stream(url) : new EventSource(url);
  };

  // data-copy="ID" copies what stands in that element.
  document.addEventListener("click", function (e) {
    var button = e.target.closest("[data-copy]");
    if (!button || !navigator.clipboard) return;
    var from = document.getElementById(button.getAttribute("data-copy"));
    navigator.clipboard.writeText(from.value || from.textContent).then(function () {
      button.textContent = "Copied";
    });
  });

  // How many new actions the log shows is announced, every 15 seconds at most.
  function logged() {
    return Array.from(document.querySelectorAll("#log tr[data-id]"), function (row) { return Number(row.dataset.id); });
  }
  var announced = Math.max.apply(null, logged().concat(0));
  setInterval(function () {
    var news = document.getElementById("log-news");
    var fresh = logged().filter(function (id) { return id > announced; });
    if (!news || !fresh.length) return;
    announced = Math.max.apply(null, fresh);
    news.textContent = fresh.length === 1 ? "1 new action" : fresh.length + " new actions";
  }, 15000);

  // <time data-until datetime="…"> counts down.
  setInterval(function () {
    document.querySelectorAll("time[data-until]").forEach(function (t) {
      var left = Math.max(0, Math.round((Date.parse(t.dateTime) - Date.now()) / 1000));
      t.textContent = left === 0 ? "over" : Math.floor(left / 60) + ":" + String(left % 60).padStart(2, "0") + " left";
    });
  }, 1000);
})();
