package https

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// writes notes what is written at once.
type writes struct {
	got []string
	err error
}

func (w *writes) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.got = append(w.got, string(p))
	return len(p), nil
}

// said is the frames that f writes.
func said(f func(*http2.Framer) error) string {
	var b bytes.Buffer
	w := http2.NewFramer(&b, nil)
	w.AllowIllegalWrites = true
	if err := f(w); err != nil {
		panic(err)
	}
	return b.String()
}

var (
	headOf = func(flags http2.HeadersFrameParam) string {
		flags.StreamID, flags.BlockFragment = 1, []byte{0x88}
		return said(func(w *http2.Framer) error { return w.WriteHeaders(flags) })
	}
	someHead  = headOf(http2.HeadersFrameParam{EndHeaders: true})
	someBody  = said(func(w *http2.Framer) error { return w.WriteData(1, true, []byte("body")) })
	someReset = said(func(w *http2.Framer) error { return w.WriteRSTStream(1, http2.ErrCodeCancel) })
)

func TestHeadsGoOutWithTheirBodies(t *testing.T) {
	for name, c := range map[string]struct{ write, want []string }{
		"head and body":          {[]string{someHead, someBody}, []string{someHead + someBody}},
		"two heads":              {[]string{someHead, someHead, someBody}, []string{someHead + someHead + someBody}},
		"together anyway":        {[]string{someHead + someBody}, []string{someHead + someBody}},
		"a body, then a head":    {[]string{someBody + someHead, someBody}, []string{someBody + someHead + someBody}},
		"no body":                {[]string{headOf(http2.HeadersFrameParam{EndHeaders: true, EndStream: true})}, []string{headOf(http2.HeadersFrameParam{EndHeaders: true, EndStream: true})}},
		"a head not ended":       {[]string{headOf(http2.HeadersFrameParam{})}, []string{headOf(http2.HeadersFrameParam{})}},
		"a head in pieces":       {[]string{someHead[:5], someHead[5:], someBody}, []string{someHead[:5], someHead[5:] + someBody}},
		"part of the next frame": {[]string{someHead + someBody[:3]}, []string{someHead + someBody[:3]}},
		"a reset":                {[]string{someHead, someReset}, []string{someHead + someReset}},
		"more than may wait":     {[]string{someHead, strings.Repeat(someHead, maxCorked/len(someHead))}, []string{strings.Repeat(someHead, 1+maxCorked/len(someHead))}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var to writes
			k := cork{to: &to}
			k.bodies.Store(true)
			for _, p := range c.write {
				if n, err := k.Write([]byte(p)); n != len(p) || err != nil {
					t.Errorf("%s: %d of %d, %v", name, n, len(p), err)
				}
			}
			if strings.Join(to.got, "|") != strings.Join(c.want, "|") {
				t.Errorf("%s: %q, want %q", name, to.got, c.want)
			}
		})
	}
}

func TestHeadsWithoutBodiesGoOutAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var to writes
		k := cork{to: &to}
		write := func(wait time.Duration, want int) {
			t.Helper()
			if _, err := k.Write([]byte(someHead)); err != nil {
				t.Error(err)
			}
			time.Sleep(wait)
			synctest.Wait()
			k.mu.Lock()
			defer k.mu.Unlock()
			if len(to.got) != want {
				t.Errorf("%d writes, want %d", len(to.got), want)
			}
		}
		write(0, 1) // nothing known of bodies
		k.bodies.Store(true)
		write(corkTime/2, 1)
		time.Sleep(corkTime)
		synctest.Wait()
		write(0, 3) // the one that waited in vain, and the next, that does not
		k.bodies.Store(true)
		k.mu.Lock()
		to.err = errors.New("gone")
		k.mu.Unlock()
		write(2*corkTime, 3)
		if _, err := k.Write([]byte(someBody)); err != to.err {
			t.Errorf("%v, want %v", err, to.err)
		}
	})
}
