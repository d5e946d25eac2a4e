package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeParser loads (-r) or unloads (-R) the profile of a file.
func fakeParser(root string, args []string) error {
	profile, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	list := filepath.Join(root, loadedProfiles)
	loaded, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	_, name, ok := strings.Cut(string(profile), "\nprofile ")
	if !ok {
		return errors.New("no profile in " + args[1])
	}
	name, _, _ = strings.Cut(name, " ")
	rest := strings.ReplaceAll(string(loaded), name+" (unconfined)\n", "")
	switch {
	case args[0] == "-r":
		rest += name + " (unconfined)\n"
	case args[0] != "-R" || rest == string(loaded):
		return fmt.Errorf("apparmor_parser %q: profile doesn't exist", args)
	}
	return os.WriteFile(list, []byte(rest), 0o644)
}

// Where users may not make namespaces without a profile, join installs one.
func TestAppArmor_JoinInstallsTheProfileAndLeaveRemovesIt(t *testing.T) {
	read := func(root, path string) string {
		b, _ := os.ReadFile(filepath.Join(root, path))
		return string(b)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		change  func(root string) error
		file    bool // is ours
		loaded  bool
		told    string
		foreign string // what stays there
	}{
		{name: "restricted", file: true, loaded: true},
		{name: "not restricted", change: func(root string) error {
			return os.WriteFile(filepath.Join(root, restrictUserns), []byte("0\n"), 0o644)
		}},
		{name: "no AppArmor at all", change: func(root string) error { return os.Remove(filepath.Join(root, restrictUserns)) }},
		{name: "no parser", file: true, told: "there is no apparmor_parser", change: func(root string) error {
			return os.Remove(filepath.Join(root, "/usr/sbin/apparmor_parser"))
		}},
		{name: "no directory", told: "there is no /etc/apparmor.d", change: func(root string) error { return os.RemoveAll(filepath.Join(root, "/etc/apparmor.d")) }},
		{name: "the administrator's own", foreign: "# mine\nprofile clawpatrol /opt/clawpatrol {}\n", change: func(root string) error {
			return os.WriteFile(filepath.Join(root, AppArmorFile), []byte("# mine\nprofile clawpatrol /opt/clawpatrol {}\n"), 0o644)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := newRoot(t)
			if c.change != nil {
				if err := c.change(root); err != nil {
					t.Fatal(err)
				}
			}
			before := snapshot(t, root)
			r := join(t, newTestGateway(t, nil, "127.0.0.1"), root)
			if got := strings.Contains(read(root, AppArmorFile), fileMark+AppArmorProfile(exe)); got != c.file {
				t.Errorf("the profile is there: %t; want %t", got, c.file)
			}
			if got := strings.Contains(read(root, loadedProfiles), "clawpatrol (unconfined)"); got != c.loaded {
				t.Errorf("it is loaded: %t; want %t", got, c.loaded)
			}
			if c.foreign != "" && read(root, AppArmorFile) != c.foreign {
				t.Errorf("the file is %q", read(root, AppArmorFile))
			}
			if said := r.out.String(); strings.Contains(said, "clawpatrol run will not work") != (c.told != "") || !strings.Contains(said, c.told) {
				t.Errorf("it said:\n%s", said)
			}
			r.stop()
			if err := r.wait(t); err != nil {
				t.Fatal(err)
			}
			if err := r.Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := snapshot(t, root); after != before {
				t.Errorf("before:\n%s\nafter leave:\n%s", before, after)
			}
		})
	}
}

// What leave cannot unload, it says, and keeps.
func TestAppArmor_AProfileThatStaysLoadedIsNotForgotten(t *testing.T) {
	root := newRoot(t)
	r := join(t, newTestGateway(t, nil, "127.0.0.1"), root)
	r.stop()
	if err := r.wait(t); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(root, AppArmorFile)
	good, err := os.ReadFile(broken)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, []byte(fileMark+"nothing\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Leave(t.Context()); err == nil || !strings.Contains(err.Error(), "unloading the AppArmor profile") || HintOf(err) == "" {
		t.Errorf("leave: %v", err)
	}
	if err := os.WriteFile(broken, good, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Leave(t.Context()); err != nil {
		t.Error(err)
	}
}
