package dashboard

import "testing"

// The first minute: no password yet, one that is weak, one that is not.
func TestSetup_ChoosesAPassword(t *testing.T) {
	t.Parallel()
	s := newUnsetStage(t, dayPolicy)
	p := chromium.open(t, s.base, setting{width: 360})
	p.expect("status of (400|409|422)")
	p.visit("/")
	p.waitAt("/setup")
	p.inspect("setup")
	p.look(setting{width: 360})
	p.fill("New password", "too short")
	p.fill("The same again", "too short")
	p.click("button", "Set password")
	p.sees("heading", "Set the root password") // the browser itself refuses
	p.fill("New password", "password12345")
	p.fill("The same again", "password12345")
	p.click("button", "Set password")
	p.says("(?i)guess|common")
	p.inspect("setup-weak")
	p.look(setting{width: 360})
	p.fill("New password", "seven herons over the weir")
	p.fill("The same again", "seven herons over the weir")
	p.click("button", "Set password")
	p.sees("heading", "(Overview|Log in)")
	if p.has("heading", "Log in") {
		p.logIn("seven herons over the weir")
	}
	p.visit("/setup")
	p.waitAt("/|/login.*")
}

func TestLogIn_LeadsWhereOneWasGoing(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	p := chromium.open(t, s.base, setting{})
	p.expect("status of 401")
	p.visit("/actions?verdict=deny")
	p.sees("heading", "Log in")
	p.fill("Root password", "wrong password here")
	p.click("button", "Log in")
	p.tells("alert", "password")
	p.logIn(stagePassword)
	p.waitAt("/actions\\?verdict=deny")
	p.click("button", "Log out")
	p.sees("heading", "Log in")
	p.visit("/credentials")
	p.sees("heading", "Log in")
	// A link cannot make the log-in lead elsewhere.
	p.visit("/login?next=//evil.example/")
	p.logIn(stagePassword)
	p.waitAt("/")
}

func TestAccount_SessionsAreSeenAndEnded(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	here, there := chromium.open(t, s.base, setting{}), chromium.open(t, s.base, setting{width: 360})
	for _, p := range []*tab{here, there} {
		p.expect(`status of 401|console.error: "\[object Event\]"`)
		p.visit("/login")
		p.logIn(stagePassword)
	}
	there.visit("/registrations")
	there.listens()
	here.visit("/account")
	here.sees("heading", "Account")
	here.click("button", "Log out everywhere else")
	here.tells("status", "ended|Logged out|logged out")
	here.sees("button", "End this session")
	here.misses("button", "End the session of .*")
	// The other page is told at once, and does not pretend any more.
	there.tells("alert", "Your session has ended")
	there.visit("/account")
	there.sees("heading", "Log in")
	there.logIn(stagePassword)

	here.visit("/account")
	here.click("button", "End the session of .*")
	here.misses("button", "End the session of .*")
	there.visit("/")
	there.sees("heading", "Log in")
	there.logIn(stagePassword)

	here.visit("/account")
	here.click("button", "Log out everywhere")
	here.sees("heading", "Log in")
	there.visit("/")
	there.sees("heading", "Log in")
}

func TestAccount_PasswordIsChanged(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	here, there := chromium.open(t, s.base, setting{}), s.open(t, setting{})
	for _, p := range []*tab{here, there} {
		p.expect("status of (400|401|403|422)")
	}
	here.visit("/login")
	here.logIn(stagePassword)
	const next = "eleven curlews on the mud"
	change := func(old, password string) {
		t.Helper()
		here.visit("/account")
		here.fill("Present password", old)
		here.fill("New password|Password", password)
		here.fill("The same again", password)
		here.click("button", "Change password")
	}
	change("not the present one", next)
	here.tells("alert", ".")
	change(stagePassword, next)
	here.tells("status", "[Pp]assword")
	there.visit("/")
	there.sees("heading", "Log in")
	there.fill("Root password", stagePassword)
	there.click("button", "Log in")
	there.tells("alert", "password")
	there.logIn(next)
	here.visit("/account")
	here.sees("heading", "Account") // who changed it stays
}
