package public

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// readBody reads the whole body, at most maxRequestBody. On failure it has
// answered.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		return body, true
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		refuse(w, http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("the body is larger than %d bytes", maxRequestBody), "")
	} else {
		refuse(w, http.StatusBadRequest, "bad_request", "the body could not be read", "")
	}
	return nil, false
}

// decode reads exactly one JSON object with no field that v does not have. Its
// errors are for the sender and quote at most a field name.
func decode(body []byte, v any) error {
	if t := bytes.TrimLeft(body, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return errors.New("the body is not a JSON object")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("the body is not what this path takes: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one JSON value in the body")
	}
	return nil
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("public listener: encoding an answer: " + err.Error()) // our own types always encode
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// refuse writes an error.
func refuse(w http.ResponseWriter, status int, code, message, hint string) {
	var e enrolment.ErrorResponse
	e.Error.Code, e.Error.Message, e.Error.Hint = code, message, hint
	answer(w, status, e)
}
