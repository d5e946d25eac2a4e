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
    var renews = e.detail.requestConfig && e.detail.requestConfig.verb === "get" && e.detail.elt.hasAttribute("data-live");
    if (renews && (status >= 400 || dirty(e.detail.target))) e.detail.shouldSwap = false;
  });

  document.addEventListener("htmx:sendError", function () {
    tell("gateway-gone", "The gateway does not answer. Nothing that you typed is lost: try again in a moment.");
  });
  document.addEventListener("htmx:sseError", function (e) {
    if (e.detail && e.detail.error && e.detail.error.status === 401) ended();
  });
  document.addEventListener("htmx:sseClose", function (e) {
    if (e.detail && e.detail.type === "message") ended();
  });
  document.addEventListener("htmx:sseOpen", function () {
    untell("gateway-gone");
    untell("session-ended");
  });

  // data-copy="ID" copies what stands in that element.
  document.addEventListener("click", function (e) {
    var button = e.target.closest("[data-copy]");
    if (!button || !navigator.clipboard) return;
    var from = document.getElementById(button.getAttribute("data-copy"));
    navigator.clipboard.writeText(from.value || from.textContent).then(function () {
      button.textContent = "Copied";
    });
  });

  // <time data-until datetime="…"> counts down.
  setInterval(function () {
    document.querySelectorAll("time[data-until]").forEach(function (t) {
      var left = Math.max(0, Math.round((Date.parse(t.dateTime) - Date.now()) / 1000));
      t.textContent = left === 0 ? "over" : Math.floor(left / 60) + ":" + String(left % 60).padStart(2, "0") + " left";
    });
  }, 1000);
})();
