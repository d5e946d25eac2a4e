package dashboard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// readJSON reads exactly one JSON object with no field that v does not have.
// Its errors quote at most a field's name, never a value.
func readJSON(r *http.Request, v any) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return err
		}
		return badRequest("the request body could not be read")
	}
	if t := bytes.TrimLeft(body, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return badRequest("the request body is not a JSON object")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return badRequest(jsonProblem(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest("there is more than one JSON value in the request body")
	}
	return nil
}

// jsonProblem describes a decoding error without what encoding/json would quote
// of the input: a value in the wrong place may be a secret.
func jsonProblem(err error) string {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("field %q has the wrong type", e.Field)
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("the request body is not JSON: byte %d", e.Offset)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return "the request body is not JSON: it ends too soon"
	}
	return "the request body has a field that this route does not take"
}

// list is the shape of every list.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

func writeList[T any](w http.ResponseWriter, items []T, next string) {
	if items == nil {
		items = []T{}
	}
	writeJSON(w, http.StatusOK, list[T]{items, next})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("dashboard: encoding an answer: " + err.Error()) // our own types always encode
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

func writeFailure(w http.ResponseWriter, f *failure) {
	var v struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Hint    string `json:"hint,omitempty"`
		} `json:"error"`
	}
	v.Error.Code, v.Error.Message, v.Error.Hint = f.code, f.message, f.hint
	writeJSON(w, f.status, v)
}

func done(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }
