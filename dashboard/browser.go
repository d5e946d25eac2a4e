package dashboard

import "strings"

// browserName shortens what a browser claims to be, which operators compare with
// what they have before them: "Firefox 140 on Linux". It is not to be trusted.
func browserName(agent string) string {
	name := ""
	for _, b := range []struct{ token, name string }{ // the more particular first: most claim to be others too
		{"Edg/", "Edge"}, {"OPR/", "Opera"}, {"SamsungBrowser/", "Samsung Internet"}, {"Firefox/", "Firefox"}, {"FxiOS/", "Firefox"},
		{"CriOS/", "Chrome"}, {"Chrome/", "Chrome"}, {"Version/", "Safari"}, {"curl/", "curl"},
	} {
		if _, version, ok := strings.Cut(agent, b.token); ok {
			name = strings.TrimSpace(b.name + " " + digits(version))
			break
		}
	}
	if name == "" {
		return shown(cut(agent, 60))
	}
	for _, s := range []struct{ token, name string }{
		{"Android", "Android"}, {"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Windows", "Windows"}, {"Mac OS X", "macOS"}, {"CrOS", "ChromeOS"}, {"Linux", "Linux"},
	} {
		if strings.Contains(agent, s.token) {
			return name + " on " + s.name
		}
	}
	return name
}

// digits are those that s begins with, at most 4.
func digits(s string) string {
	n := 0
	for n < len(s) && n < 4 && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return s[:n]
}

// cut keeps at most n bytes of s and says so.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
