package postgres

import "io"

// SetReadOnly replaces what is asked about statements under read_only credentials.
// Call it before the first flow.
func (h *Handler) SetReadOnly(f func(sql string) error) {
	h.readOnly = f
	h.warming.Do(func() {})
}

// ParseOpening reads a first message, its length left out.
func ParseOpening(body []byte) (settings map[string]string, ok bool) {
	o, err := parseOpening(body)
	if err != nil {
		return nil, false
	}
	settings = make(map[string]string)
	for _, s := range o.settings {
		settings[s.name] = s.value
	}
	_, _ = sessionSettings(o.settings, []string{"search_path"}, true, false)
	_, _ = sessionSettings(o.settings, nil, false, true)
	return settings, true
}

// PassAll passes messages but those of one type, and looks at the beginning of
// each.
func PassAll(from io.Reader, to io.Writer, without byte) error {
	s := newStream(from, to)
	for {
		kind, n, err := s.next()
		if err != nil {
			_ = s.flush()
			return err
		}
		if kind == without {
			err = s.remove(n, nil)
		} else {
			if n < 100 { // what is not whole passes all the same
				_, err = s.body(n)
			}
			s.pass(n)
		}
		if err != nil {
			_ = s.flush()
			return err
		}
	}
}
