package sftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// request is one that was read whole. Of the actions of version 3 none names more
// than two paths.
type request struct {
	typ      byte
	id       uint32
	extended string // its name, of SSH_FXP_EXTENDED

	action Action // with Op "": nobody is asked
	opens  bool   // a handle is the answer
	packet []byte // what is sent instead, where a path is; else nil
}

// refusal is an error that the agent is told in a SSH_FXP_STATUS.
type refusal struct {
	code uint32
	text string
}

func (r refusal) Error() string { return r.text }

// pathsOf are the paths of those requests that begin with one or two and have
// nothing after them but attributes.
var pathsOf = map[byte]struct {
	op    Op
	paths int
	attrs bool
}{
	typeLstat:    {Stat, 1, false},
	typeSetstat:  {Setstat, 1, true},
	typeOpendir:  {List, 1, false},
	typeRemove:   {Remove, 1, false},
	typeMkdir:    {Mkdir, 1, true},
	typeRmdir:    {Rmdir, 1, false},
	typeRealpath: {Resolve, 1, false},
	typeStat:     {Stat, 1, false},
	typeRename:   {Rename, 2, false},
	typeReadlink: {Stat, 1, false},
	typeSymlink:  {Symlink, 2, false},
}

// extensions are those of OpenSSH's PROTOCOL, section 4, that may be used, and
// "home-directory" of draft-ietf-secsh-filexfer-extensions-00. op is "" where
// only an open handle is named, or nothing.
var extensions = map[string]struct {
	op    Op
	paths int
	attrs bool
}{
	"posix-rename@openssh.com":       {Rename, 2, false},
	"hardlink@openssh.com":           {Hardlink, 2, false},
	"statvfs@openssh.com":            {Stat, 1, false},
	"lsetstat@openssh.com":           {Setstat, 1, true},
	"expand-path@openssh.com":        {Resolve, 1, false},
	"home-directory":                 {Resolve, 1, false},
	"copy-data":                      {Copy, 0, false},
	"fstatvfs@openssh.com":           {},
	"fsync@openssh.com":              {},
	"limits@openssh.com":             {},
	"users-groups-by-id@openssh.com": {},
}

// parse reads a request from its type on. h knows the open handles. The error is
// a refusal where the agent is to be told and the session goes on.
func parse(p []byte, h *handles) (request, error) {
	f := fields{rest: p[1:]}
	r := request{typ: p[0], id: f.uint32()}
	if f.err != nil {
		return r, f.err
	}
	switch r.typ {
	case typeOpen:
		return r.open(f)
	case typeFsetstat:
		return r.ofHandle(Setstat, f, h)
	case typeExtended:
		return r.extension(f, h)
	case typeRead, typeFstat, typeReaddir, typeClose:
		return r, nil
	}
	known, ok := pathsOf[r.typ]
	if !ok {
		return r, refusal{codeUnsupported, fmt.Sprintf("request type %d is not of SFTP version 3", r.typ)}
	}
	r.opens = r.typ == typeOpendir
	return r.ofPaths(known.op, known.paths, known.attrs, f)
}

// open reads SSH_FXP_OPEN: section 6.3.
func (r request) open(f fields) (request, error) {
	// To read is to ask for nothing else: even with SSH_FXF_READ alone, a server may
	// make or truncate the file. Without any flag OpenSSH's opens it for reading.
	at := f
	at.string()
	op := Write
	if flags := at.uint32(); flags&^flagRead == 0 {
		op = Read
	}
	if at.err != nil {
		return r, refusal{codeBadMessage, at.err.Error()}
	}
	r.opens = true
	return r.ofPaths(op, 1, true, f)
}

// ofPaths reads n paths. more says that something may follow them.
func (r request) ofPaths(op Op, n int, more bool, f fields) (request, error) {
	var sent []byte // the paths as they are to be sent
	var clean [2]string
	changed := false
	for i := range n {
		given := f.string()
		c, again, err := cleanPath(given)
		if err != nil {
			return r, err
		}
		clean[i] = c
		if again {
			given, changed = []byte(c), true
		}
		sent = appendString(sent, given)
	}
	if f.err != nil {
		return r, refusal{codeBadMessage, f.err.Error()}
	}
	if len(f.rest) > 0 && !more {
		return r, refusal{codeBadMessage, "request has more fields than it should"}
	}
	r.action = Action{Op: op, Path: clean[0], Target: clean[1]}
	if changed {
		r.packet = r.rebuilt(sent, f.rest)
	}
	return r, nil
}

func (r request) rebuilt(paths, rest []byte) []byte {
	p := binary.BigEndian.AppendUint32(begin(r.typ), r.id)
	if r.typ == typeExtended {
		p = appendString(p, r.extended)
	}
	return finish(slices.Concat(p, paths, rest))
}

var errPath = errors.New("path is longer than 4096 bytes or has a zero byte in it")

// cleanPath returns a path to decide on. again says that this is what has to be
// sent: a path with ".." may lead elsewhere than it reads.
func cleanPath(p []byte) (clean string, again bool, err error) {
	if len(p) > maxPath || bytes.IndexByte(p, 0) >= 0 {
		return "", false, refusal{codeBadMessage, errPath.Error()}
	}
	given := string(p)
	if given == "" {
		return ".", false, nil
	}
	clean = path.Clean(given)
	return clean, slices.Contains(strings.Split(given, "/"), ".."), nil
}

// ofHandle reads a request about an open file.
func (r request) ofHandle(op Op, f fields, h *handles) (request, error) {
	name, ok := h.path(f.string())
	if !ok {
		return r, refusal{codeFailure, "no such handle"}
	}
	r.action = Action{Op: op, Path: name}
	return r, nil
}

func (r request) extension(f fields, h *handles) (request, error) {
	r.extended = string(f.string())
	known, ok := extensions[r.extended]
	switch {
	case f.err != nil:
		return r, refusal{codeBadMessage, f.err.Error()}
	case !ok:
		return r, refusal{codeUnsupported, "this extension is not passed on"}
	case known.op == "":
		return r, nil
	case known.op == Copy:
		return r.copyData(f, h)
	}
	return r.ofPaths(known.op, known.paths, known.attrs, f)
}

// copyData reads copy-data: draft-ietf-secsh-filexfer-extensions-00, section 7.
func (r request) copyData(f fields, h *handles) (request, error) {
	from, fromOK := h.path(f.string())
	f.uint64() // offset
	f.uint64() // length
	to, toOK := h.path(f.string())
	if !fromOK || !toOK {
		return r, refusal{codeFailure, "no such handle"}
	}
	r.action = Action{Op: Copy, Path: from, Target: to}
	return r, nil
}
