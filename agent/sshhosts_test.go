package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// testSSHKey is the key of a host, or of an authority, of the test gateway's.
func testSSHKey(name string) ssh.Signer {
	seed := sha256.Sum256([]byte(name))
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		panic(err)
	}
	return s
}

// What the test gateway says of SSH: two hosts, one of them on a port of its own.
var (
	testSSHCA    = marshalKey(testSSHKey("authority").PublicKey())
	testSSHHosts = []string{
		"build.example.com " + marshalKey(testSSHKey("build").PublicKey()),
		"[git.example.com]:2222 " + marshalKey(testSSHKey("git").PublicKey()),
	}
)

// testBlock is what they become.
func testBlock(t *testing.T) []byte {
	t.Helper()
	k, errs := checkSSHHosts(testSSHCA, testSSHHosts)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return k.block()
}

// Of what the gateway says only lines are taken that name one host and one
// ed25519 key; the rest is left out and told, and nothing of it is written.
func TestSSHHosts_HostileLines(t *testing.T) {
	key := marshalKey(testSSHKey("x").PublicKey())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaPublic, err := ssh.NewPublicKey(&rsaKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for what, line := range map[string]string{
		"nothing":                 "",
		"a comment":               "# " + key,
		"no key":                  "build.example.com",
		"a damaged key":           "build.example.com ssh-ed25519 AAAA",
		"a marker":                "@cert-authority * " + key,
		"a revocation":            "@revoked build.example.com " + key,
		"all hosts":               "* " + key,
		"a pattern":               "*.example.com " + key,
		"a pattern of one letter": "buil?.example.com " + key,
		"a negation":              "!build.example.com " + key,
		"two hosts":               "a.example.com,b.example.com " + key,
		"a hash":                  "|1|AAAAAAAAAAAAAAAAAAAAAAAAAAA=|AAAAAAAAAAAAAAAAAAAAAAAAAAA= " + key,
		"an RSA key":              "build.example.com " + marshalKey(rsaPublic),
		"another kind":            "build.example.com ssh-rsa " + strings.Fields(key)[1],
		"a second line":           "a.example.com " + key + "\n* " + key,
		"a second line by \\r":    "a.example.com " + key + "\r@revoked * " + key,
		"an escape":               "a\x1b[2J.example.com " + key,
		"not ASCII":               "bücher.example.com " + key,
		"a long line":             strings.Repeat("a", 253) + " " + key + " " + strings.Repeat("c", maxSSHLine),
		"a long name":             strings.Repeat("a", 254) + " " + key,
		"port zero":               "[build.example.com]:0 " + key,
		"no port":                 "[build.example.com] " + key,
		"a large port":            "[build.example.com]:65536 " + key,
		"a pattern and a port":    "[*]:22 " + key,
		"this host":               "localhost " + key,
		"this host by a name":     "a.localhost " + key,
		"this host by an address": "127.0.0.2 " + key,
		"this host and a port":    "[::1]:2222 " + key,
		"a zone":                  "fe80::1%eth0 " + key,
		"an option":               "-oProxyCommand=id " + key,
	} {
		k, errs := checkSSHHosts("", []string{line})
		if len(errs) != 1 || len(k.block()) != 0 {
			t.Errorf("%s: %v\n%s", what, errs, k.block())
			continue
		}
		if strings.ContainsAny(errs[0].Error(), "\x1b\n\r") {
			t.Errorf("%s: the error is not printable: %q", what, errs[0])
		}
	}
	for line, want := range map[string]string{
		"build.example.com " + key + " a comment":     "build.example.com " + key,
		"Build.Example.COM " + key:                    "build.example.com " + key,
		"[build.example.com]:22 " + key:               "build.example.com " + key,
		"  [build.example.com]:2222   " + key + "   ": "[build.example.com]:2222 " + key,
		"192.0.2.1 " + key:                            "192.0.2.1 " + key,
		"2001:db8::1 " + key:                          "2001:db8::1 " + key,
		"[2001:db8::1]:2222 " + key:                   "[2001:db8::1]:2222 " + key,
	} {
		k, errs := checkSSHHosts("", []string{line})
		if len(errs) != 0 || len(k.hosts) != 1 || k.hosts[0].String()+" "+k.hosts[0].key != want {
			t.Errorf("%q: %+v, %v; want %q", line, k, errs, want)
		}
	}
	// Two keys of one host, and more hosts than there may be.
	k, errs := checkSSHHosts("", []string{"a.example.com " + key, "A.example.com " + key, "a.example.com " + strings.Fields(testSSHHosts[0])[1] + " " + strings.Fields(testSSHHosts[0])[2]})
	if len(errs) != 1 || len(k.hosts) != 1 || k.hosts[0].key != key {
		t.Errorf("two keys: %+v, %v", k, errs)
	}
	var many []string
	for i := range enrolment.MaxSSHHosts + 10 {
		many = append(many, fmt.Sprintf("h%d.example.com %s", i, key))
	}
	if k, errs := checkSSHHosts("", many); len(errs) != 1 || len(k.hosts) != enrolment.MaxSSHHosts {
		t.Errorf("many: %d, %v", len(k.hosts), errs)
	}
}

func TestI12_SSHAuthorityIsOneED25519Key(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for what, s := range map[string]string{
		"an RSA key":        marshalKey(public),
		"a comment":         testSSHCA + " comment",
		"two":               testSSHCA + "\n" + testSSHCA,
		"a line of another": testSSHCA + "\n@revoked * " + testSSHCA,
		"a broken line":     testSSHCA[:40] + "\n" + testSSHCA[40:],
		"options":           `command="id" ` + testSSHCA,
		"half":              testSSHCA[:40],
		"a space":           " " + testSSHCA,
		"another kind":      "ssh-rsa " + strings.Fields(testSSHCA)[1],
	} {
		if checkSSHCA(s) == nil {
			t.Errorf("%s: a claim with it is accepted", what)
		}
		if k, errs := checkSSHHosts(s, nil); len(errs) != 1 || len(k.block()) != 0 {
			t.Errorf("%s: %v\n%s", what, errs, k.block())
		}
	}
	if err := checkSSHCA(testSSHCA); err != nil {
		t.Error(err)
	}
	if err := checkSSHCA(""); err != nil {
		t.Errorf("none: %v", err)
	}
}

func FuzzCheckSSHHosts(f *testing.F) {
	f.Add(testSSHCA, strings.Join(testSSHHosts, "\n"))
	f.Add("", "@cert-authority * "+testSSHCA)
	f.Fuzz(func(t *testing.T, authority, lines string) {
		k, _ := checkSSHHosts(authority, strings.Split(lines, "\n"))
		b := k.block()
		if len(b) == 0 {
			return
		}
		again, err := parseBlock(b)
		if err != nil || !bytes.Equal(again.block(), b) {
			t.Fatalf("%v\n%s\n%s", err, b, again.block())
		}
		// As any program would read it.
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			marker, hosts, key, _, rest, err := ssh.ParseKnownHosts([]byte(line))
			if err != nil || len(hosts) != 1 || len(rest) != 0 || key.Type() != ssh.KeyAlgoED25519 || (marker == "") == strings.Contains(hosts[0], "*") {
				t.Errorf("%q: %q %q %v", line, marker, hosts, err)
			}
		}
	})
}

// A block goes in and out, and what is around it stays, byte for byte.
func TestSSHHosts_OtherLinesStay(t *testing.T) {
	block := testBlock(t)
	for _, others := range []string{
		"", "\n", "a.example.com ssh-ed25519 AAAA\n", "no newline at its end", "# comment\n\n\n|1|x|y ssh-rsa AAAA\r\n",
		"a line about " + blockBegin + "\n", "\x00\xff\n",
	} {
		with := WithSSHHosts([]byte(others), block)
		if want := string(block) + others; string(with) != want {
			t.Errorf("%q: got\n%s", others, with)
		}
		if again := WithSSHHosts(with, block); !bytes.Equal(again, with) {
			t.Errorf("%q: a second time:\n%s", others, again)
		}
		if without := withoutBlock(with); string(without) != others {
			t.Errorf("%q: without it %q", others, without)
		}
	}
	text := string(block)
	mine := "mine.example.com ssh-ed25519 AAAA\n"
	for what, c := range map[string][2]string{
		"below others":                 {mine + text + mine, mine + mine},
		"two":                          {text + mine + text, mine},
		"its end is gone":              {strings.TrimSuffix(text, blockEnd+"\n") + mine, mine},
		"its beginning is gone":        {blockEnd + "\n" + mine, mine},
		"two, the first without end":   {strings.TrimSuffix(text, blockEnd+"\n") + mine + text, mine},
		"with \\r\\n":                  {strings.ReplaceAll(text, "\n", "\r\n") + mine, mine},
		"at the end, without \\n":      {mine + strings.TrimSuffix(text, "\n"), mine},
		"another has written into it":  {strings.Replace(text, "\n", "\n"+mine, 1) + mine, mine},
		"only its beginning, at where": {mine + blockBegin, mine},
	} {
		if got := string(withoutBlock([]byte(c[0]))); got != c[1] {
			t.Errorf("%s: %q", what, got)
		}
	}
}

func FuzzWithoutBlock(f *testing.F) {
	f.Add([]byte("a b c\n" + blockBegin + "\nx" + blockTag + "\n" + blockEnd + "\n"))
	f.Add([]byte(blockEnd + "\n" + blockBegin))
	k, _ := checkSSHHosts(testSSHCA, testSSHHosts)
	block := k.block()
	f.Fuzz(func(t *testing.T, content []byte) {
		without := withoutBlock(content)
		if again := withoutBlock(without); !bytes.Equal(again, without) {
			t.Errorf("twice: %q and %q", without, again)
		}
		with := WithSSHHosts(content, block)
		if !bytes.Equal(with[len(block):], without) || !bytes.Equal(withoutBlock(with), without) {
			t.Errorf("%q: with it %q", without, with)
		}
	})
}
