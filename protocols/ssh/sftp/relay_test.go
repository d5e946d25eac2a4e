package sftp_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/sftp"
)

const (
	openRead   = uint32(1)
	openWrite  = uint32(2)
	openAppend = uint32(4)
	openCreate = uint32(8)
	openTrunc  = uint32(16)
)

var noAttrs = uint32(0)

// Every request that names a path, with what is asked about it. Those with ".."
// are sent on as they were decided.
var asking = []struct {
	name   string
	packet []byte
	action sftp.Action
	sent   []byte // nil: packet
}{
	{"open to read", packet(3, uint32(7), "/a", openRead, noAttrs), sftp.Action{Op: sftp.Read, Path: "/a"}, nil},
	{"open with no flag", packet(3, uint32(7), "/a", uint32(0), noAttrs), sftp.Action{Op: sftp.Read, Path: "/a"}, nil},
	{"open to write", packet(3, uint32(7), "/a", openWrite, noAttrs), sftp.Action{Op: sftp.Write, Path: "/a"}, nil},
	{"open to append", packet(3, uint32(7), "/a", openAppend|openWrite, noAttrs), sftp.Action{Op: sftp.Write, Path: "/a"}, nil},
	{"open to read, makes it", packet(3, uint32(7), "/a", openRead|openCreate, noAttrs), sftp.Action{Op: sftp.Write, Path: "/a"}, nil},
	{"open to read, truncates", packet(3, uint32(7), "/a", openRead|openTrunc, noAttrs), sftp.Action{Op: sftp.Write, Path: "/a"}, nil},
	{"open with a flag of tomorrow", packet(3, uint32(7), "/a", openRead|1<<20, noAttrs), sftp.Action{Op: sftp.Write, Path: "/a"}, nil},
	{"open beside", packet(3, uint32(7), "/srv/../etc//passwd", openRead, noAttrs), sftp.Action{Op: sftp.Read, Path: "/etc/passwd"}, packet(3, uint32(7), "/etc/passwd", openRead, noAttrs)},
	{"opendir", packet(11, uint32(7), "/a/"), sftp.Action{Op: sftp.List, Path: "/a"}, nil},
	{"stat", packet(17, uint32(7), "a"), sftp.Action{Op: sftp.Stat, Path: "a"}, nil},
	{"lstat", packet(7, uint32(7), ""), sftp.Action{Op: sftp.Stat, Path: "."}, nil},
	{"readlink", packet(19, uint32(7), "/a"), sftp.Action{Op: sftp.Stat, Path: "/a"}, nil},
	{"realpath", packet(16, uint32(7), "../.."), sftp.Action{Op: sftp.Resolve, Path: "../.."}, nil},
	{"setstat", packet(9, uint32(7), "/a", uint32(4), uint32(0o4755)), sftp.Action{Op: sftp.Setstat, Path: "/a"}, nil},
	{"remove", packet(13, uint32(7), "/a"), sftp.Action{Op: sftp.Remove, Path: "/a"}, nil},
	{"mkdir", packet(14, uint32(7), "/a", noAttrs), sftp.Action{Op: sftp.Mkdir, Path: "/a"}, nil},
	{"rmdir", packet(15, uint32(7), "/a"), sftp.Action{Op: sftp.Rmdir, Path: "/a"}, nil},
	{"rename", packet(18, uint32(7), "/a", "/x/../b"), sftp.Action{Op: sftp.Rename, Path: "/a", Target: "/b"}, packet(18, uint32(7), "/a", "/b")},
	{"symlink", packet(20, uint32(7), "/a", "/b"), sftp.Action{Op: sftp.Symlink, Path: "/a", Target: "/b"}, nil},
	{"posix-rename", packet(200, uint32(7), "posix-rename@openssh.com", "/x/../a", "/b"), sftp.Action{Op: sftp.Rename, Path: "/a", Target: "/b"}, packet(200, uint32(7), "posix-rename@openssh.com", "/a", "/b")},
	{"hardlink", packet(200, uint32(7), "hardlink@openssh.com", "/a", "/b"), sftp.Action{Op: sftp.Hardlink, Path: "/a", Target: "/b"}, nil},
	{"lsetstat", packet(200, uint32(7), "lsetstat@openssh.com", "/a", noAttrs), sftp.Action{Op: sftp.Setstat, Path: "/a"}, nil},
	{"statvfs", packet(200, uint32(7), "statvfs@openssh.com", "/a"), sftp.Action{Op: sftp.Stat, Path: "/a"}, nil},
	{"expand-path", packet(200, uint32(7), "expand-path@openssh.com", "~deploy/a"), sftp.Action{Op: sftp.Resolve, Path: "~deploy/a"}, nil},
	{"home-directory", packet(200, uint32(7), "home-directory", "deploy"), sftp.Action{Op: sftp.Resolve, Path: "deploy"}, nil},
}

func TestRelay_AsksOnceForEveryPath(t *testing.T) {
	for _, tt := range asking {
		t.Run(tt.name, func(t *testing.T) {
			w := begun(t, nil)
			w.request(tt.packet)
			sent := tt.sent
			if sent == nil {
				sent = tt.packet
			}
			w.upstreamGets(sent)
			w.wasAsked(tt.action)
		})
	}
}

func TestRelay_RefusedRequestNeverReachesUpstream(t *testing.T) {
	harmless := packet(200, uint32(8), "limits@openssh.com")
	for _, tt := range asking {
		t.Run(tt.name, func(t *testing.T) {
			w := begun(t, func(a sftp.Action) error { return fmt.Errorf("%s %s: not today", a.Op, a.Path) })
			w.request(tt.packet, harmless)
			w.upstreamGets(harmless) // and nothing before it
			w.agentIsTold(7, 3, fmt.Sprintf("%s %s: not today", tt.action.Op, tt.action.Path))
		})
	}
}

func TestRelay_RefusesWithoutDecide(t *testing.T) {
	agent, a := dialed(t)
	upstream, u := dialed(t)
	w := &wire{t: t, agent: agent, upstream: upstream, ended: make(chan error, 1)}
	go func() { w.ended <- sftp.Relay(a, u, nil) }()
	w.request(initPacket, asking[0].packet)
	w.upstreamGets(initPacket)
	w.agentIsTold(7, 3, "nothing decides what may be done")
}

// A decision that panics ends its session, and no other. What it panics with may
// quote what was carried, and is not told (I02).
func TestRelay_APanicEndsOneSession(t *testing.T) {
	other := begun(t, nil)
	w := begun(t, func(sftp.Action) error { panic("at the disco") })
	w.request(asking[0].packet)
	if err := w.end(); err == nil || !strings.Contains(err.Error(), "sftp panicked: string") || strings.Contains(err.Error(), "at the disco") {
		t.Errorf("ended with %v", err)
	}
	other.request(asking[0].packet)
	other.upstreamGets(asking[0].packet)
}

// What needs an open file alone is not asked about, and unknown extensions stay
// here: they might name a path in a place that nobody looks at.
func TestRelay_PassesWhatNamesNoPath(t *testing.T) {
	w := begun(t, nil)
	for _, p := range [][]byte{
		packet(5, uint32(1), "h", uint64(0), uint32(32768)),
		packet(6, uint32(2), "h", uint64(0), strings.Repeat("x", 200_000)),
		packet(8, uint32(3), "h"),
		packet(12, uint32(4), "h"),
		packet(4, uint32(5), "h"),
		packet(200, uint32(6), "fsync@openssh.com", "h"),
		packet(200, uint32(7), "fstatvfs@openssh.com", "h"),
		packet(200, uint32(8), "users-groups-by-id@openssh.com", "\x00\x00\x00\x00", ""),
	} {
		w.request(p)
		w.upstreamGets(p)
	}
	w.wasAsked()
	w.request(packet(200, uint32(9), "md5-hash@example.com", "/etc/shadow"))
	w.agentIsTold(9, 8, "this extension is not passed on")
	w.request(packet(21, uint32(10), "/a", "/b"))
	w.agentIsTold(10, 8, "request type 21 is not of SFTP version 3")
	w.wasAsked()
}

// An open file is known by the path that it was opened with, and by none once it
// has been closed.
func TestRelay_DecidesOnOpenFilesByTheirPath(t *testing.T) {
	w := begun(t, nil)
	fsetstat := packet(10, uint32(20), "h1", uint32(1), uint64(0))
	w.request(fsetstat)
	w.agentIsTold(20, 4, "no such handle")

	first, second := packet(3, uint32(1), "/one", openWrite, noAttrs), packet(3, uint32(2), "/two", openRead, noAttrs)
	w.request(first, second)
	w.upstreamGets(first)
	w.upstreamGets(second)
	for _, p := range [][]byte{packet(102, uint32(2), "h2"), packet(102, uint32(1), "h1")} { // in any order
		w.reply(p)
		w.agentGets(p)
	}
	copyData := packet(200, uint32(21), "copy-data", "h2", uint64(0), uint64(0), "h1", uint64(0))
	w.request(fsetstat, copyData)
	w.upstreamGets(fsetstat)
	w.upstreamGets(copyData)
	w.wasAsked(sftp.Action{Op: sftp.Write, Path: "/one"}, sftp.Action{Op: sftp.Read, Path: "/two"},
		sftp.Action{Op: sftp.Setstat, Path: "/one"}, sftp.Action{Op: sftp.Copy, Path: "/two", Target: "/one"})

	closing := packet(4, uint32(22), "h1")
	w.request(closing, fsetstat, copyData)
	w.upstreamGets(closing)
	w.agentIsTold(20, 4, "no such handle")
	w.agentIsTold(21, 4, "no such handle")

	// An open that failed leaves nothing behind.
	w.request(first)
	w.upstreamGets(first)
	failed := packet(101, uint32(1), uint32(2), "No such file", "")
	w.reply(failed)
	w.agentGets(failed)
	w.request(fsetstat)
	w.agentIsTold(20, 4, "no such handle")
}

// The answer to an open has to be told from every other, or a handle would be
// known by another file's path.
func TestRelay_EndsWhereAnIDIsUsedTwice(t *testing.T) {
	w := begun(t, nil)
	open := packet(3, uint32(1), "/one", openRead, noAttrs)
	w.request(open)
	w.upstreamGets(open)
	w.request(packet(17, uint32(1), "/two"))
	if err := w.end(); err == nil || !strings.Contains(err.Error(), "has not been answered") {
		t.Fatal(err)
	}
}

func TestRelay_BoundsOpenFiles(t *testing.T) {
	w := begun(t, nil)
	go func() { _, _ = io.Copy(io.Discard, w.upstream) }()
	for id := range uint32(1024) {
		w.request(packet(3, id, "/a", openRead, noAttrs))
	}
	w.request(packet(11, uint32(2000), "/b"))
	w.agentIsTold(2000, 4, "too many open files")
}

func TestRelay_RefusesBadRequests(t *testing.T) {
	w := begun(t, nil)
	for i, tt := range []struct {
		packet []byte
		text   string
	}{
		{packet(13, uint32(7), "/a", "/b"), "request has more fields than it should"},
		{packet(18, uint32(7), "/a"), "packet ends within a field"},
		{packet(3, uint32(7), "/a"), "packet ends within a field"},
		{packet(13, uint32(7), uint32(1<<31), []byte("/a")), "packet ends within a field"},
		{packet(200, uint32(7), uint32(9)), "packet ends within a field"},
		{packet(13, uint32(7), "/a\x00b"), "path is longer than 4096 bytes or has a zero byte in it"},
		{packet(13, uint32(7), "/"+strings.Repeat("a", 4096)), "path is longer than 4096 bytes or has a zero byte in it"},
	} {
		t.Log(i)
		w.request(tt.packet)
		w.agentIsTold(7, 5, tt.text)
	}
	w.wasAsked()
}

func TestRelay_EndsWhereThereIsNoPacket(t *testing.T) {
	longRequest := packet(13, uint32(1), strings.Repeat("a", 40_000))
	for _, tt := range []struct {
		name            string
		agent, upstream []byte
		want            string
	}{
		{"no length", []byte{0, 0, 0, 0, 0}, nil, "from the agent: packet has a length"},
		{"longer than any", []byte{0, 4, 0, 1, 6}, nil, "from the agent: packet has a length"},
		{"too short for an id", packet(13, 1, 1), nil, "from the agent: packet has a length"},
		{"a request as long as a write", longRequest, nil, "from the agent: packet has a length"},
		{"ends within", packet(6, uint32(1), "h", uint64(0), "data")[:14], nil, "from the agent: unexpected EOF"},
		{"reply longer than any", nil, []byte{255, 255, 255, 255, 103}, "from the upstream: packet has a length"},
		{"reply with a handle longer than any", nil, packet(102, uint32(1), strings.Repeat("h", 257)), "from the upstream: packet has a length"},
		{"reply ends within", nil, packet(103, uint32(1), "data")[:8], "from the upstream: unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := begun(t, nil)
			if tt.agent != nil {
				w.request(tt.agent)
				must(t, w.agent.CloseWrite())
			} else {
				w.reply(tt.upstream)
				must(t, w.upstream.CloseWrite())
			}
			if err := w.end(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("ended with %v, want %q", err, tt.want)
			}
		})
	}
}

func TestRelay_SpeaksVersion3(t *testing.T) {
	t.Run("asks for no newer one", func(t *testing.T) {
		w := newWire(t, nil)
		w.request(packet(1, uint32(6), "an-extension", "data"))
		w.upstreamGets(initPacket)
	})
	t.Run("offers only what it passes on", func(t *testing.T) {
		w := newWire(t, nil)
		w.request(initPacket)
		w.reply(packet(2, uint32(3), "statvfs@openssh.com", "2", "check-file", "", "copy-data", "1"))
		w.agentGets(packet(2, uint32(3), "statvfs@openssh.com", "2", "copy-data", "1"))
	})
	for name, tt := range map[string]struct{ agent, upstream []byte }{
		"an older agent":              {packet(1, uint32(2)), nil},
		"no beginning":                {packet(17, uint32(3), "/"), nil},
		"an older upstream":           {initPacket, packet(2, uint32(2))},
		"a newer upstream":            {initPacket, packet(2, uint32(4))},
		"an upstream of another kind": {initPacket, []byte("Welcome to build.example.com!\r\n")},
		"half an extension":           {initPacket, packet(2, uint32(3), "copy-data")},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, nil)
			w.request(tt.agent)
			if tt.upstream != nil {
				w.reply(tt.upstream)
			}
			if err := w.end(); err == nil {
				t.Fatal("the session ended well")
			}
		})
	}
}

// A status that is ours never lands within a packet of the upstream's.
func TestRelay_RefusalsWaitForWholePackets(t *testing.T) {
	asked := make(chan struct{})
	w := begun(t, func(sftp.Action) error { close(asked); return errors.New("no") })
	data := packet(103, uint32(1), strings.Repeat("d", 150_000))
	w.reply(data[:70_000])
	first := make([]byte, 60_000)
	_, err := io.ReadFull(w.agent, first)
	must(t, err)
	harmless := packet(8, uint32(3), "h")
	w.request(packet(13, uint32(2), "/a"), harmless)
	<-asked
	w.reply(data[70_000:])
	rest := make([]byte, len(data)-len(first))
	_, err = io.ReadFull(w.agent, rest)
	must(t, err)
	if string(first)+string(rest) != string(data) {
		t.Fatal("the packet was broken")
	}
	w.agentIsTold(2, 3, "no")
	w.upstreamGets(harmless)
}

func TestRelay_HalfCloses(t *testing.T) {
	w := begun(t, nil)
	stat := packet(17, uint32(1), "/a")
	w.request(stat)
	must(t, w.agent.CloseWrite())
	w.upstreamGets(stat)
	if _, err := readPacket(w.upstream); err != io.EOF {
		t.Fatalf("the upstream does not see the agent's end: %v", err)
	}
	answer := packet(105, uint32(1), noAttrs)
	w.reply(answer)
	w.agentGets(answer)
	must(t, w.upstream.CloseWrite())
	if _, err := readPacket(w.agent); err != io.EOF {
		t.Fatalf("the agent does not see the upstream's end: %v", err)
	}
	must(t, w.end())
}

// Where the upstream is gone, the session ends though the agent sends nothing.
func TestRelay_EndsWithTheUpstream(t *testing.T) {
	w := begun(t, nil)
	must(t, w.upstream.CloseWrite())
	must(t, w.end())
}

func TestRelay_KeepsOrderOfManyRequests(t *testing.T) {
	w := begun(t, func(a sftp.Action) error {
		if a.Op == sftp.Remove {
			return errors.New("no")
		}
		return nil
	})
	const each = 2000
	go func() {
		for id := range uint32(each) {
			w.request(packet(17, 3*id, "/a"), packet(13, 3*id+1, "/a"), packet(6, 3*id+2, "h", uint64(id), strings.Repeat("x", int(id))))
		}
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for id := range uint32(each) {
			w.agentIsTold(3*id+1, 3, "no")
		}
	}()
	for id := range uint32(each) {
		w.upstreamGets(packet(17, 3*id, "/a"))
		w.upstreamGets(packet(6, 3*id+2, "h", uint64(id), strings.Repeat("x", int(id))))
	}
	<-done
}
