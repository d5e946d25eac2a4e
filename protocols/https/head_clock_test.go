package https

import (
	"bufio"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// A request that begins when the time for one is over is not taken, even if the
// deadline has not been noticed yet.
func TestRequestsThatBeginTooLateAreNotTaken(t *testing.T) {
	a := &agentConn{br: bufio.NewReader(iotest.OneByteReader(strings.NewReader("GET / HTTP/1.1\r\nHost: x\r\n\r\n")))}
	a.clock = time.AfterFunc(time.Hour, func() {})
	a.clock.Stop() // as good as fired
	defer a.clock.Stop()
	if head, err := a.readHead(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v", head, err)
	}
}
