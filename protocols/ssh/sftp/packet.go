package sftp

import (
	"encoding/binary"
	"errors"
	"strings"
)

// Types of packets: draft-ietf-secsh-filexfer-02, section 3.
const (
	typeInit     = 1
	typeVersion  = 2
	typeOpen     = 3
	typeClose    = 4
	typeRead     = 5
	typeWrite    = 6
	typeLstat    = 7
	typeFstat    = 8
	typeSetstat  = 9
	typeFsetstat = 10
	typeOpendir  = 11
	typeReaddir  = 12
	typeRemove   = 13
	typeMkdir    = 14
	typeRmdir    = 15
	typeRealpath = 16
	typeStat     = 17
	typeRename   = 18
	typeReadlink = 19
	typeSymlink  = 20
	typeStatus   = 101
	typeHandle   = 102
	typeExtended = 200
)

// Codes of SSH_FXP_STATUS: section 7.
const (
	codePermissionDenied = 3
	codeFailure          = 4
	codeBadMessage       = 5
	codeUnsupported      = 8
)

// flagRead is SSH_FXF_READ: section 6.3.
const flagRead = 1

// version is the only one spoken.
const version = 3

const (
	// maxPacket bounds a packet without its length field: OpenSSH's
	// SFTP_MAX_MSG_LENGTH.
	maxPacket = 256 << 10
	// maxRequest bounds a request that is read whole, which is every one but
	// SSH_FXP_WRITE: what a server has to support at least, section 3.
	maxRequest = 34000
	// maxPath is PATH_MAX of Linux.
	maxPath = 4096
	// maxHandle is the longest handle: section 6.2.
	maxHandle = 256
	// maxText bounds what an agent is told of a refusal.
	maxText = 1024

	lengthSize = 4
	headSize   = 1 + 4 // type and request id
)

var errShort = errors.New("packet ends within a field")

// fields reads the fields of a packet, in order. After an error every further
// field is empty.
type fields struct {
	rest []byte
	err  error
}

func (f *fields) uint32() uint32 {
	if len(f.rest) < 4 {
		f.fail()
		return 0
	}
	n := binary.BigEndian.Uint32(f.rest)
	f.rest = f.rest[4:]
	return n
}

func (f *fields) uint64() uint64 { return uint64(f.uint32())<<32 | uint64(f.uint32()) }

// string returns a part of the packet.
func (f *fields) string() []byte {
	n := f.uint32()
	if uint64(n) > uint64(len(f.rest)) {
		f.fail()
		return nil
	}
	s := f.rest[:n]
	f.rest = f.rest[n:]
	return s
}

func (f *fields) fail() { f.rest, f.err = nil, errShort }

func appendString[S string | []byte](b []byte, s S) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// begin starts a packet; finish sets its length.
func begin(typ byte) []byte { return append(make([]byte, lengthSize, 64), typ) }

func finish(p []byte) []byte {
	binary.BigEndian.PutUint32(p, uint32(len(p)-lengthSize))
	return p
}

// status returns a SSH_FXP_STATUS: section 7.
func status(id, code uint32, text string) []byte {
	if len(text) > maxText {
		text = text[:maxText]
	}
	p := binary.BigEndian.AppendUint32(begin(typeStatus), id)
	p = binary.BigEndian.AppendUint32(p, code)
	p = appendString(p, strings.ToValidUTF8(text, "\uFFFD"))
	return finish(appendString(p, "")) // language tag
}
