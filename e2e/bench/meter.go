package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// clockTicks is USER_HZ, 100 on every Linux that Go runs on.
	clockTicks = 100

	// noisy is how much of one processor others may use during a sample.
	noisy = 0.1

	attempts   = 3  // at a sample that is noisy
	maxRepeats = 90 // in a run: a machine that is never quiet must not take forever
)

// meter takes samples.
type meter struct {
	samples int
	length  time.Duration
	only    *regexp.Regexp
	stage   *stage

	taken, again, kept int // samples; those of them that were noisy, and those that still were in the end
	repeats            int
}

// contender is one way of doing the same work. The zero contender leaves its
// cells empty.
type contender struct {
	parts []part // whose CPU time is told, the gateway's end first
	// open makes what is not measured, connections above all.
	open func(ctx context.Context) (load, error)
}

// part is the processes that do one share of a contender's work.
type part struct {
	name string
	pids func() []int
	ours bool // what is compared: all that stands where our gateway does
}

func gatewayPart(name string, pids func() []int) part { return part{name, pids, true} }
func otherPart(name string, pids func() []int) part   { return part{name, pids, false} }

// load is work that is ready to begin.
type load interface {
	// run works for about length.
	run(ctx context.Context, length time.Duration) (figures, error)
	close()
}

// figures are what a load achieved.
type figures struct {
	rate float64 // units a second
	p50  float64 // seconds from the beginning of a unit to its end; 0: not measured
}

// loadFunc is a load with nothing to open.
type loadFunc func(ctx context.Context, length time.Duration) (figures, error)

func (f loadFunc) run(ctx context.Context, length time.Duration) (figures, error) {
	return f(ctx, length)
}
func (f loadFunc) close()                             {}
func (f loadFunc) open(context.Context) (load, error) { return f, nil }

// sample is one measurement of a contender.
type sample struct {
	figures
	cpu []float64 // seconds a unit, by part
}

// sample measures once, and again while the machine was busy with something
// else.
func (m *meter) sample(ctx context.Context, c contender) (s sample, err error) {
	m.taken++
	for n := 1; ; n++ {
		var others float64
		if s, others, err = m.once(ctx, c); err != nil || others < noisy {
			return s, err
		}
		if n == 1 {
			m.again++
		}
		if n == attempts || m.repeats == maxRepeats {
			m.kept++
			return s, nil
		}
		m.repeats++
		fmt.Fprintf(os.Stderr, "noisy: other processes used %.0f %% of a processor; again\n", 100*others)
	}
}

// once also returns how much of one processor others used.
func (m *meter) once(ctx context.Context, c contender) (s sample, others float64, err error) {
	l, err := c.open(ctx)
	if err != nil {
		return s, 0, err
	}
	defer l.close()
	own := m.stage.pids()
	before := make([]float64, len(c.parts))
	for i, p := range c.parts {
		before[i] = cpuOf(p.pids())
	}
	othersBefore, start := otherCPU(own), time.Now()
	if s.figures, err = l.run(ctx, m.length); err != nil {
		return s, 0, err
	}
	took := time.Since(start).Seconds()
	others = (otherCPU(own) - othersBefore) / took
	for i, p := range c.parts {
		s.cpu = append(s.cpu, (cpuOf(p.pids())-before[i])/(s.rate*took))
	}
	return s, others, nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// pid is a part of one process.
func pid(n int) func() []int { return func() []int { return []int{n} } }

// tree is a part of a process and those it has started.
func tree(n int) func() []int {
	return func() []int {
		all := []int{n}
		for i := 0; i < len(all); i++ {
			p := strconv.Itoa(all[i])
			b, err := os.ReadFile("/proc/" + p + "/task/" + p + "/children")
			if err != nil {
				continue // ended
			}
			for _, child := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(child); err == nil {
					all = append(all, n)
				}
			}
		}
		return all
	}
}

// cpuOf returns the CPU seconds that processes have used, and those of their
// children that have ended and been waited for.
func cpuOf(pids []int) (seconds float64) {
	for _, pid := range pids {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			continue // ended
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, used := range f[11:15] { // utime, stime, cutime and cstime, proc(5)
			seconds += ticks(used)
		}
	}
	return seconds
}

// otherCPU returns the CPU seconds that everything but own has used. Softirq time
// is left out: the kernel's network stack spends it for all.
func otherCPU(own []int) float64 {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	f := strings.Fields(strings.SplitN(string(b), "\n", 2)[0]) // cpu user nice system …
	return ticks(f[1]) + ticks(f[2]) + ticks(f[3]) - cpuOf(own)
}

func ticks(s string) float64 {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0
	}
	return n / clockTicks
}
