package registry

// ActionDetail is the Detail of an approval of kind "action": what an operator
// looks at before deciding. Who holds an action fills in the part of its
// protocol. Nothing here may hold a secret, nor what could be one: of an HTTP
// request no header, no body and no value of the query, of a statement no
// literal.
type ActionDetail struct {
	RuleReason string `json:"rule_reason,omitempty"` // the policy's, for the rule that held it

	HTTP *HTTPDetail `json:"http,omitempty"`
	SSH  *SSHDetail  `json:"ssh,omitempty"`
	SQL  *SQLDetail  `json:"sql,omitempty"`
}

// HTTPDetail is a request: what the decision is about in its canonical form.
type HTTPDetail struct {
	Method      string   `json:"method"`
	Host        string   `json:"host"`
	Path        string   `json:"path"`
	Parameters  []string `json:"parameters,omitempty"` // names in the query, in order; never values
	ContentType string   `json:"content_type,omitempty"`
	BodyBytes   int64    `json:"body_bytes,omitempty"` // -1: not known beforehand
}

// SSHDetail is a channel request, or an operation of SFTP.
type SSHDetail struct {
	Action    string `json:"action"` // "exec", "shell", "subsystem", "forward", "sftp read", …
	User      string `json:"user,omitempty"`
	Host      string `json:"host,omitempty"`
	Command   string `json:"command,omitempty"`
	Subsystem string `json:"subsystem,omitempty"`
	Path      string `json:"path,omitempty"`
	Forward   string `json:"forward,omitempty"` // host:port
}

// SQLDetail is a statement.
type SQLDetail struct {
	Statement string   `json:"statement"` // literals replaced by ?
	Verbs     []string `json:"verbs,omitempty"`
	Tables    []string `json:"tables,omitempty"`
	Functions []string `json:"functions,omitempty"`
	Database  string   `json:"database,omitempty"`
	User      string   `json:"user,omitempty"`
}
