package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Limits of the action_log block. The registry has the same least ones.
const (
	minKeep    = time.Hour
	maxKeep    = 36500 * day
	minMaxSize = 16 << 20
	maxMaxSize = 1 << 50
)

const day = 24 * time.Hour

func (c *compiler) actionLog(s section) {
	l := &c.policy.Gateway.ActionLog
	if v, ok := s.has("keep"); ok {
		keep, err := parseDuration(v.text)
		if err == nil && (keep < minKeep || keep > maxKeep) {
			err = fmt.Errorf("%q is not between 1h and 36500d", clip(v.text))
		}
		if err != nil {
			c.invalid(v.rng, "keep", err)
		}
		l.Keep = keep
	}
	if v, ok := s.has("max_size"); ok {
		size, err := parseSize(v.text)
		if err == nil && (size < minMaxSize || size > maxMaxSize) {
			err = fmt.Errorf("%q is not between 16MiB and 1024TiB", clip(v.text))
		}
		if err != nil {
			c.invalid(v.rng, "max_size", err)
		}
		l.MaxSize = size
	}
}

// parseDuration reads a duration of Go, or a number of days: "36h", "90d".
func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 62)
		if errors.Is(err, strconv.ErrRange) || n > uint64(maxKeep/day) {
			return maxKeep + 1, nil
		}
		if err == nil {
			return time.Duration(n) * day, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration, such as 36h or, in days, 90d", clip(s))
	}
	return d, nil
}

// sizeUnits are what a size may end in.
var sizeUnits = map[string]uint{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}

// parseSize reads a number of bytes: a whole number and a unit.
func parseSize(s string) (int64, error) {
	if len(s) > 3 {
		shift, known := sizeUnits[s[len(s)-3:]]
		n, err := strconv.ParseUint(strings.TrimSpace(s[:len(s)-3]), 10, 62)
		if errors.Is(err, strconv.ErrRange) || known && err == nil && n > maxMaxSize>>shift {
			return maxMaxSize + 1, nil
		}
		if known && err == nil {
			return int64(n << shift), nil
		}
	}
	return 0, fmt.Errorf("%q is not a size: write a whole number and KiB, MiB, GiB or TiB, such as 4GiB", clip(s))
}
