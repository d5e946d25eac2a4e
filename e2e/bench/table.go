package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// table prints rows that compare the same contenders, as markdown, each row as
// soon as it is measured.
type table struct {
	*meter
	title    string
	names    []string // of the contenders; ours is the last
	against  []int    // which of them ours is compared with
	compared []int    // and by the CPU time at the gateway's end
	begun    bool
	cpu      []string // the second table's lines
}

// row is what is compared.
type row struct {
	name, unit, reach string // reach: what is to be reached
	p50, p50Reach     string // the name of the row that compares the latency too, if there is to be one
}

// row measures the contenders in turn, sample by sample, so that a machine whose
// speed drifts drifts for all of them. The ratios are those of samples taken in
// the same turn.
func (t *table) row(ctx context.Context, r row, contenders ...contender) error {
	wanted := func(name string) bool { return name != "" && t.only.MatchString(name) }
	if !wanted(r.name) && !wanted(r.p50) {
		return nil
	}
	all := make([][]sample, len(contenders))
	for range t.samples {
		for i, c := range contenders {
			if c.open == nil {
				continue
			}
			s, err := t.sample(ctx, c)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", r.name, t.names[i], err)
			}
			all[i] = append(all[i], s)
		}
	}
	t.begin()
	rate := func(s sample) float64 { return s.rate }
	p50 := func(s sample) float64 { return s.p50 * 1e6 }
	if wanted(r.name) {
		t.line(r.name, r.reach, all, rate, func(v float64) string { return human(v, r.unit) },
			func(ours, limit float64) float64 { return ours / limit }, "%.2f")
		t.cpuLine(r, contenders, all)
	}
	if wanted(r.p50) {
		t.line(r.p50, r.p50Reach, all, p50, func(v float64) string { return fmt.Sprintf("%.0f µs", v) },
			func(ours, limit float64) float64 { return ours - limit }, "%+.0f")
	}
	return nil
}

// begin prints the head of the table before its first row.
func (t *table) begin() {
	if t.begun {
		return
	}
	t.begun = true
	heads := append([]string{t.title}, t.names...)
	for _, i := range t.against {
		heads = append(heads, "ours to "+t.names[i])
	}
	heads = append(heads, "reach")
	fmt.Printf("\n| %s |\n|%s\n", strings.Join(heads, " | "), strings.Repeat(" --- |", len(heads)))
}

func (t *table) line(name, reach string, all [][]sample, value func(sample) float64, show func(float64) string,
	compare func(ours, limit float64) float64, verb string) {
	cells := []string{name}
	for _, samples := range all {
		cells = append(cells, "")
		if len(samples) > 0 {
			cells[len(cells)-1] = show(median(each(samples, value)))
		}
	}
	ours := all[len(all)-1]
	for _, i := range t.against {
		var compared []float64
		for n, limit := range all[i] {
			compared = append(compared, compare(value(ours[n]), value(limit)))
		}
		cells = append(cells, "")
		if len(compared) > 0 {
			cells[len(cells)-1] = fmt.Sprintf("**"+verb+"** ("+verb+" to "+verb+")", median(compared), slices.Min(compared), slices.Max(compared))
		}
	}
	fmt.Printf("| %s | %s |\n", strings.Join(cells, " | "), reach)
}

// cpuLine keeps a line for the table of CPU times.
func (t *table) cpuLine(r row, contenders []contender, all [][]sample) {
	cells := []string{r.name}
	for i, c := range contenders {
		var shares []string
		for p := range c.parts {
			if len(all[i]) == 0 {
				continue
			}
			seconds := median(each(all[i], func(s sample) float64 { return s.cpu[p] }))
			shares = append(shares, fmt.Sprintf("%s %s", c.parts[p].name, cpuTime(seconds, r.unit)))
		}
		cells = append(cells, strings.Join(shares, ", "))
	}
	for _, i := range t.compared {
		cell := ""
		if limit := gatewayCPU(contenders[i], all[i]); limit > 0 {
			cell = fmt.Sprintf("%.2f", gatewayCPU(contenders[len(contenders)-1], all[len(all)-1])/limit)
		}
		cells = append(cells, cell)
	}
	t.cpu = append(t.cpu, "| "+strings.Join(cells, " | ")+" |")
}

// end prints where the CPU time of the rows went.
func (t *table) end(err error) error {
	if len(t.cpu) > 0 {
		heads := append([]string{"CPU time a unit"}, t.names...)
		for _, i := range t.compared {
			heads = append(heads, "ours to "+t.names[i])
		}
		fmt.Printf("\n| %s |\n|%s\n%s\n", strings.Join(heads, " | "), strings.Repeat(" --- |", len(heads)), strings.Join(t.cpu, "\n"))
	}
	return err
}

// gatewayCPU is the CPU time a unit of all that stands where our gateway does; 0
// where nothing does.
func gatewayCPU(c contender, samples []sample) float64 {
	if len(samples) == 0 {
		return 0
	}
	return median(each(samples, func(s sample) (sum float64) {
		for i, p := range c.parts {
			if p.ours {
				sum += s.cpu[i]
			}
		}
		return sum
	}))
}

func each(samples []sample, value func(sample) float64) []float64 {
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = value(s)
	}
	return v
}

// cpuTime writes the CPU time of one unit: of a GB where the unit is bytes.
func cpuTime(seconds float64, unit string) string {
	switch {
	case strings.HasPrefix(unit, "B/"):
		return fmt.Sprintf("%.2f s/GB", seconds*1e9)
	case seconds >= 1e-3:
		return fmt.Sprintf("%.2f ms", seconds*1e3)
	}
	return fmt.Sprintf("%.0f µs", seconds*1e6)
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
	return fmt.Sprintf("%.0f %s", v, unit)
}
