package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// clockTicks is USER_HZ, 100 on every Linux that Go runs on.
const clockTicks = 100

// meter takes samples of contenders in turn and prints rows.
type meter struct {
	samples int
	length  time.Duration
	only    string
	stage   *stage
}

// contender is one way of doing the same work.
type contender struct {
	name string
	pids []int // whose CPU time is charged to it
	// run works for the given time and returns how much it did, in the row's
	// unit, or a latency in seconds where the row is one.
	run func(ctx context.Context, length time.Duration) (float64, error)
}

// sample is one measurement.
type sample struct{ value, cpu float64 }

// row measures ours beside the limit and prints the median and the spread of
// the ratios, pair by pair.
func (m *meter) row(ctx context.Context, name, unit string, reach string, limit, ours contender) error {
	if !strings.Contains(name, m.only) {
		return nil
	}
	var ratios, cpuRatios, limits, values []float64
	for range m.samples {
		l, err := m.sample(ctx, limit)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", name, limit.name, err)
		}
		o, err := m.sample(ctx, ours)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", name, ours.name, err)
		}
		limits, values = append(limits, l.value), append(values, o.value)
		ratios = append(ratios, o.value/l.value)
		if l.cpu > 0 && o.cpu > 0 {
			cpuRatios = append(cpuRatios, (o.cpu/o.value)/(l.cpu/l.value))
		}
	}
	line := fmt.Sprintf("| %s | %s | %s | %s | **%.2f** (%.2f to %.2f) | %s |", name,
		limit.name+": "+human(median(limits), unit), human(median(values), unit), cpuColumn(cpuRatios),
		median(ratios), slices.Min(ratios), slices.Max(ratios), reach)
	fmt.Println(line)
	return nil
}

// added measures a latency and prints what ours adds to the limit's.
func (m *meter) added(ctx context.Context, name, reach string, limit, ours contender) error {
	if !strings.Contains(name, m.only) {
		return nil
	}
	var diffs, limits, values []float64
	for range m.samples {
		l, err := m.sample(ctx, limit)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", name, limit.name, err)
		}
		o, err := m.sample(ctx, ours)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", name, ours.name, err)
		}
		limits, values, diffs = append(limits, l.value*1e6), append(values, o.value*1e6), append(diffs, (o.value-l.value)*1e6)
	}
	fmt.Printf("| %s | %s: %.0f µs | %.0f µs | | **%+.0f µs** (%+.0f to %+.0f) | %s |\n", name, limit.name, median(limits), median(values),
		median(diffs), slices.Min(diffs), slices.Max(diffs), reach)
	return nil
}

// sample measures once, and again, up to three times, while the machine was
// busy with something else.
func (m *meter) sample(ctx context.Context, c contender) (s sample, err error) {
	for range 3 {
		before, others := cpuOf(c.pids), otherCPU(m.ownPIDs())
		start := time.Now()
		if s.value, err = c.run(ctx, m.length); err != nil {
			return s, err
		}
		took := time.Since(start).Seconds()
		s.cpu = cpuOf(c.pids) - before
		if otherCPU(m.ownPIDs())-others < 0.1*took {
			break
		}
		fmt.Fprintf(os.Stderr, "noisy: other processes used %.1f s of CPU; again\n", otherCPU(m.ownPIDs())-others)
	}
	return s, nil
}

func (m *meter) ownPIDs() []int {
	s := m.stage
	pids := []int{os.Getpid(), s.gateway.PID(), s.joined.PID()}
	for _, c := range s.commands() {
		pids = append(pids, c.Process.Pid)
	}
	return pids
}

func cpuColumn(ratios []float64) string {
	if len(ratios) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", median(ratios))
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

func human(v float64, unit string) string {
	switch {
	case v >= 1e9:
		return fmt.Sprintf("%.2f G%s", v/1e9, unit)
	case v >= 1e6:
		return fmt.Sprintf("%.1f M%s", v/1e6, unit)
	case v >= 1e4:
		return fmt.Sprintf("%.1f k%s", v/1e3, unit)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// cpuOf returns the CPU seconds that processes have used.
func cpuOf(pids []int) (seconds float64) {
	for _, pid := range pids {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			continue // ended
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		seconds += ticks(f[11]) + ticks(f[12]) // utime and stime, proc(5)
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
