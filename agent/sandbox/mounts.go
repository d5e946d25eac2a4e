package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// mount is one line of mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	device string // major:minor of the file system
	root   string // what of it is mounted
	at     string // and where
}

type mountTable []mount

func readMounts(r io.Reader) (mountTable, error) {
	var t mountTable
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxFile)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 5 {
			return nil, errors.New("reading the mount table: a line is too short")
		}
		t = append(t, mount{f[2], unescapeMount(f[3]), unescapeMount(f[4])})
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	return t, nil
}

// unescapeMount undoes the escapes \ooo for space, tab, newline and backslash.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// aliases returns the other paths of what is at path, and of what is mounted
// elsewhere from inside it: a bind mount shows the same files under another
// name, and a cover hides one name only.
func (t mountTable) aliases(path string) []string {
	var in *mount
	for i, m := range t { // a later mount at the same place is on top
		if (m.at == path || below(path, m.at)) && (in == nil || len(m.at) >= len(in.at)) {
			in = &t[i]
		}
	}
	if in == nil {
		return nil
	}
	inside := filepath.Join(in.root, strings.TrimPrefix(path, in.at))
	var out []string
	for _, m := range t {
		if m.device != in.device {
			continue
		}
		alias := ""
		switch {
		case m.root == inside || below(m.root, inside):
			alias = m.at
		case below(inside, m.root):
			alias = filepath.Join(m.at, strings.TrimPrefix(inside, m.root))
		}
		if alias == "" || alias == path || below(alias, path) || slices.Contains(out, alias) {
			continue
		}
		if _, err := os.Lstat(alias); err == nil {
			out = append(out, alias)
		}
	}
	return out
}
