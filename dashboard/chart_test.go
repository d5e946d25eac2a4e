package dashboard

import "testing"

func TestChart_BarsStayWithinItAndSomethingIsNeverNothing(t *testing.T) {
	for _, counts := range [][]count{
		nil,
		{{}},
		{{allowed: 1}, {denied: 1}},
		{{allowed: 1_000_000, denied: 1}, {allowed: 1}, {denied: 1}},
		{{allowed: 333, denied: 667}, {allowed: 667, denied: 333}, {allowed: 999, denied: 1}},
	} {
		c := newChart(counts)
		for i, b := range c.Bars {
			if b.DeniedY < 0 || b.AllowedY+b.AllowedHeight != c.Base || b.DeniedY+b.DeniedHeight != b.AllowedY {
				t.Errorf("%v: bar %d does not stand: %+v", counts, i, b)
			}
			if b.X+b.Width > c.Width || b.Width <= 0 {
				t.Errorf("%v: bar %d is beside the chart: %+v", counts, i, b)
			}
			if (b.AllowedHeight == 0) != (counts[i].allowed == 0) || (b.DeniedHeight == 0) != (counts[i].denied == 0) {
				t.Errorf("%v: bar %d shows something as nothing, or nothing as something: %+v", counts, i, b)
			}
		}
	}
}
