package dashboard

// webhookRow is what an operator should know of announcing; empty: nothing.
type webhookRow string

func (d *dashboard) webhookRow() *webhookRow {
	if d.Webhook == nil {
		return nil
	}
	s := d.Webhook()
	if s.Since.IsZero() {
		return nil
	}
	row := webhookRow("Announcements to " + shown(s.Host) + " fail since " + at(s.Since) + ", " + plural(s.Dropped, "announcement") + " lost since the start: " + shown(s.Problem) + ".")
	return &row
}
