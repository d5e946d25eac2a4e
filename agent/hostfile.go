package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// fileMark begins every file we write on the host, so that undoing tells ours,
// or a torn piece of it, from one that somebody put there since. It is a comment
// in resolv.conf, systemd units and PEM alike.
const fileMark = "# Written by clawpatrol; `clawpatrol leave` restores what was here.\n"

// maxHostFile bounds the files that are kept in the journal.
const maxHostFile = 256 << 10 // bytes

// fileBefore is what was at a path before us.
type fileBefore struct {
	Kind    string      `json:"kind"` // absent, regular, symlink
	Mode    fs.FileMode `json:"mode,omitempty"`
	UID     int         `json:"uid,omitempty"`
	GID     int         `json:"gid,omitempty"`
	Content []byte      `json:"content,omitempty"` // of a symlink: what it led to, as far as it could be read
	Target  string      `json:"target,omitempty"`
}

// readBefore looks at path without changing it.
func readBefore(path string) (*fileBefore, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); errors.Is(err, fs.ErrNotExist) {
		return &fileBefore{Kind: "absent"}, nil
	} else if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	b := &fileBefore{Mode: fs.FileMode(st.Mode) & fs.ModePerm, UID: int(st.Uid), GID: int(st.Gid)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		b.Kind = "regular"
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		b.Kind, b.Target = "symlink", target
	default:
		return nil, fmt.Errorf("%s is neither a file nor a symbolic link", path)
	}
	content, err := readBounded(path)
	if err != nil && b.Kind == "regular" {
		return nil, err
	}
	b.Content = content // a dangling link leads to nothing
	return b, nil
}

func readBounded(path string) ([]byte, error) { return ReadAtMost(path, maxHostFile) }

// ReadAtMost refuses a file of more bytes than limit.
func ReadAtMost(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return content, nil
}

// ours reports whether what is at a path now was written by us, in full or in
// part. An empty file counts: that is what a torn write leaves.
func (b *fileBefore) ours() bool {
	return b.Kind == "regular" && (bytes.HasPrefix(b.Content, []byte(fileMark)) || bytes.HasPrefix([]byte(fileMark), b.Content))
}

// writeHostFile puts content, which begins with fileMark, at path, once the
// journal knows what was there. Where somebody has replaced our file since, what
// they wrote becomes what is restored.
func writeHostFile(j *journal, sc scope, path string, content []byte, mode fs.FileMode) error {
	now, err := readBefore(path)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if now.ours() && bytes.Equal(now.Content, content) && j.find(stepFile, path) != nil {
		return nil
	}
	e := entry{Step: stepFile, Scope: sc, Key: path, File: now}
	switch {
	case !now.ours():
		err = j.replace(e)
	case j.find(stepFile, path) == nil:
		// Ours, but left by a state directory that is gone: there is nothing to
		// restore it to.
		if len(now.Content) > 0 {
			e.File = &fileBefore{Kind: "absent"}
		}
		err = j.record(e)
	}
	if err != nil {
		return err
	}
	if err := putFile(j, path, content, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	j.checkpoint("wrote " + path)
	return nil
}

// putFile replaces path, or writes into it where it cannot be replaced: a file
// that is a mount of its own, as in containers (EBUSY), the only writable one in
// its directory, or one on a full disk that has the room already. A host must not
// stay without a resolver because there is no room for a second file.
func putFile(j *journal, path string, content []byte, mode fs.FileMode) error {
	err := replaceFile(path, content, mode)
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	if full && !hasRoom(path, len(content)) {
		return err
	}
	if !full && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EXDEV) {
		if errors.Is(err, unix.EPERM) {
			return WithHint(err, "it may be marked immutable: lsattr shows it, chattr -i takes it away")
		}
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // not truncated: a reader never sees it empty
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(content, 0); err != nil {
		return err
	}
	j.checkpoint("overwrote " + path)
	if err := f.Truncate(int64(len(content))); err != nil {
		return err
	}
	return f.Sync()
}

// hasRoom reports whether the blocks of the file at path hold this many bytes.
func hasRoom(path string, bytes int) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Blocks*512 >= int64(bytes)
}

// restoreHostFile undoes writeHostFile. A file that is not ours is left alone:
// whoever wrote it since owns it.
func restoreHostFile(j *journal, e entry) error {
	if err := os.Remove(temporaryName(e.Key)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EROFS) {
		return err
	}
	now, err := readBefore(e.Key)
	if err != nil {
		return err
	}
	if !now.ours() {
		return nil
	}
	before := e.File
	switch before.Kind {
	case "absent":
		if err := os.Remove(e.Key); err != nil {
			return err
		}
		return syncDirOf(e.Key)
	case "symlink":
		tmp := temporaryName(e.Key)
		if err := os.Symlink(before.Target, tmp); err != nil {
			return err
		}
		if err := os.Rename(tmp, e.Key); err != nil {
			return errors.Join(err, os.Remove(tmp))
		}
		return syncDirOf(e.Key)
	case "regular":
		if len(before.Content) == 0 && len(now.Content) == 0 {
			return nil
		}
		if err := putFile(j, e.Key, before.Content, before.Mode); err != nil {
			return err
		}
		if now.Mode != before.Mode { // it may have been written in place
			if err := os.Chmod(e.Key, before.Mode); err != nil {
				return err
			}
		}
		return os.Lchown(e.Key, before.UID, before.GID)
	}
	return fmt.Errorf("unknown kind of file %q", before.Kind)
}
