package dashboard

import "fmt"

// The measures of a chart, in units of its viewBox.
const (
	chartWidth  = 480
	chartHeight = 96
	barGap      = 3
)

// chart is bars of what was allowed and, on top of it, what was denied, drawn by
// the template as SVG: no script, no style attribute.
type chart struct {
	Width, Height int
	Base          int // y of the bars' foot
	Bars          []bar
	Max           int // what the highest bar stands for
	Allowed       int // all together
	Denied        int
}

// bar is one of a chart's: the denied part stands on the allowed one.
type bar struct {
	X, Width                int
	AllowedY, AllowedHeight int
	DeniedY, DeniedHeight   int
	Title                   string // what it says when pointed at, and to a screen reader
}

// newChart draws counts, oldest first.
func newChart(counts []count) chart {
	c := chart{Width: chartWidth, Height: chartHeight + 1, Base: chartHeight}
	for _, n := range counts {
		c.Max = max(c.Max, n.allowed+n.denied)
		c.Allowed += n.allowed
		c.Denied += n.denied
	}
	slot := chartWidth / max(1, len(counts))
	for i, n := range counts {
		b := bar{X: i * slot, Width: slot - barGap,
			Title: fmt.Sprintf("%s: %d allowed, %d denied", n.when, n.allowed, n.denied)}
		b.AllowedHeight, b.DeniedHeight = c.height(n.allowed), c.height(n.denied)
		b.AllowedY = chartHeight - b.AllowedHeight
		b.DeniedY = b.AllowedY - b.DeniedHeight
		c.Bars = append(c.Bars, b)
	}
	return c
}

// count is what a bar shows.
type count struct {
	allowed, denied int
	when            string
}

// height is how high n stands: something is never nothing. The parts of the
// highest bar fill the chart, less a unit that rounding up may take.
func (c chart) height(n int) int {
	if n == 0 {
		return 0
	}
	return max(1, n*(chartHeight-2)/c.Max)
}
