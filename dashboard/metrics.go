package dashboard

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxScrapes is how many scrapes are answered at a time.
const maxScrapes = 4

// metricsHandler serves the gateway's metrics in Prometheus's text format. No
// label comes from an agent: a hostile one could make a series of every request.
func (d *dashboard) metricsHandler() http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(
		gatewayMetrics{d},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})
}

// gatewayMetrics reads what the gateway knows at the moment of a scrape.
type gatewayMetrics struct{ d *dashboard }

var (
	buildInfo        = describe("build_info", "1, with the gateway's version.", "version")
	startTime        = describe("start_time_seconds", "When the gateway was started, as UNIX time.")
	registrations    = describe("registrations", "Registrations by state.", "state")
	approvalsWaiting = describe("approvals_waiting", "What waits for an operator's decision.")
	tunnelBytes      = describe("tunnel_bytes_total", "Bytes of WireGuard's messages since the start, by direction: in is from agent hosts.", "direction")
	actionRows       = describe("action_log_rows_total", "The ID of the newest row of the action log on disk.")
	actionsQueued    = describe("action_log_queued_rows", "Rows of the action log on their way to the disk.")
	resultsDropped   = describe("action_log_dropped_results_total", "Actions that the log has without how they ended, since the start.")
	logFailing       = describe("action_log_failing", "1 while rows cannot be written, and so every action is denied.")
	rowsRemoved      = describe("action_log_removed_rows_total", "Rows that went because they were too old or too many.")
	databaseBytes    = describe("database_bytes", "Size of the database.")
	diskFreeBytes    = describe("disk_free_bytes", "What is free of the disk that state_dir is on.")
	openStreams      = describe("dashboard_event_streams", "Pages that listen for changes.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("clawpatrol_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (gatewayMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, m := range []*prometheus.Desc{buildInfo, startTime, registrations, approvalsWaiting, tunnelBytes, actionRows, actionsQueued,
		resultsDropped, logFailing, rowsRemoved, databaseBytes, diskFreeBytes, openStreams} {
		to <- m
	}
}

// Collect implements prometheus.Collector.
func (m gatewayMetrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(of *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(of, prometheus.GaugeValue, v, labels...)
	}
	counter := func(of *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(of, prometheus.CounterValue, v, labels...)
	}
	v := m.d.system()
	gauge(buildInfo, 1, v.Version)
	gauge(startTime, float64(v.Started.Unix()))
	for state, n := range v.Registrations {
		gauge(registrations, float64(n), state)
	}
	gauge(approvalsWaiting, float64(m.d.Registry.PendingApprovals()))
	var in, out uint64
	for _, reg := range m.d.Registry.Snapshot().All() {
		h := m.d.Registry.Health(reg.ID)
		in, out = in+h.BytesIn, out+h.BytesOut
	}
	counter(tunnelBytes, float64(in), "in")
	counter(tunnelBytes, float64(out), "out")
	counter(actionRows, float64(v.ActionLog.Last))
	gauge(actionsQueued, float64(v.ActionLog.Queued))
	counter(resultsDropped, float64(v.ActionLog.DroppedResults))
	failing := 0.0
	if v.ActionLog.Error != "" {
		failing = 1
	}
	gauge(logFailing, failing)
	counter(rowsRemoved, float64(v.ActionLog.Removed))
	gauge(databaseBytes, float64(v.Store.Database))
	gauge(diskFreeBytes, float64(v.Store.DiskFree))
	gauge(openStreams, float64(v.EventStreams))
}
