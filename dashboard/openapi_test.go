package dashboard_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

// described is the API's own description, with which every answer of every test
// of this package is compared.
type described struct {
	document map[string]any
	mux      *http.ServeMux // its patterns

	mu       sync.Mutex
	compiled map[string]*jsonschema.Schema // by pointer into the document; guarded by mu
	compiler *jsonschema.Compiler          // guarded by mu
}

// description asks a dashboard of no test in particular.
var description = sync.OnceValues(func() (*described, error) {
	d := &described{mux: http.NewServeMux(), compiled: make(map[string]*jsonschema.Schema), compiler: jsonschema.NewCompiler()}
	if err := json.Unmarshal(dashboard.OpenAPI(), &d.document); err != nil {
		return nil, err
	}
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(dashboard.OpenAPI()))
	if err != nil {
		return nil, err
	}
	if err := d.compiler.AddResource("api.json", document); err != nil {
		return nil, err
	}
	for _, pattern := range d.patterns() {
		d.mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
	}
	return d, nil
})

// patterns are the described routes, as the router would name them.
func (d *described) patterns() []string {
	var all []string
	for path, methods := range d.document["paths"].(map[string]any) {
		for method := range methods.(map[string]any) {
			all = append(all, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(all)
	return all
}

// schema compiles what stands at a path of keys in the document.
func (d *described) schema(keys ...string) (*jsonschema.Schema, error) {
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
	pointer := "api.json#"
	for _, k := range keys {
		pointer += "/" + escape.Replace(k)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.compiled[pointer]; s != nil {
		return s, nil
	}
	s, err := d.compiler.Compile(pointer)
	d.compiled[pointer] = s
	return s, err
}

// answerFits compares an answer with what the document says of it.
func (d *described) answerFits(method, target string, status int, header http.Header, body []byte) error {
	if method == http.MethodHead || status >= 300 && status < 400 {
		return nil
	}
	_, pattern := d.mux.Handler(httptest.NewRequest(method, "http://"+listen+target, nil))
	if pattern == "" {
		return nil // not the API's, or no route of it
	}
	method, path, _ := strings.Cut(pattern, " ")
	keys := []string{"paths", path, strings.ToLower(method), "responses"}
	responses := d.document["paths"].(map[string]any)[path].(map[string]any)[strings.ToLower(method)].(map[string]any)["responses"].(map[string]any)
	code := fmt.Sprint(status)
	if status >= 400 {
		code = "default"
	}
	response, ok := responses[code].(map[string]any)
	if !ok {
		return fmt.Errorf("%s answers %d, which is not described", pattern, status)
	}
	described, ok := response["content"].(map[string]any)
	if !ok {
		if len(body) > 0 {
			return fmt.Errorf("%s answers %d with a body, which is not described", pattern, status)
		}
		return nil
	}
	media, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	if _, ok := described[media]; !ok {
		return fmt.Errorf("%s answers %d with %q, which is not described", pattern, status, media)
	}
	if media != "application/json" {
		return nil
	}
	schema, err := d.schema(append(keys, code, "content", media, "schema")...)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w in %s", pattern, err, body)
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("%s: %w in %s", pattern, err, body)
	}
	return nil
}

func TestOpenAPI_DescribesEveryRouteAndNoOther(t *testing.T) {
	g := newOperated(t)
	var routes []string
	gated, public := dashboard.Routes(g.handler)
	for _, pattern := range append(gated, public...) {
		if _, path, _ := strings.Cut(pattern, " "); isAPI(path) {
			routes = append(routes, pattern)
		}
	}
	slices.Sort(routes)
	d, err := description()
	if err != nil {
		t.Fatal(err)
	}
	described := d.patterns()
	for _, pattern := range routes {
		if !slices.Contains(described, pattern) {
			t.Errorf("%s is not described", pattern)
		}
	}
	for _, pattern := range described {
		if !slices.Contains(routes, pattern) {
			t.Errorf("%s is described and is no route", pattern)
		}
	}
	served := status(t, g.api("GET", "/api/openapi.json", ""), http.StatusOK)
	if !bytes.Equal([]byte(served), dashboard.OpenAPI()) {
		t.Error("what is served is not the description")
	}
}

// A field that is described and not taken is answered 400 bad_request by name of
// the mistake; whatever else is wrong with a made-up request may be.
func TestOpenAPI_RequestsAreWhatRoutesTake(t *testing.T) {
	g := newOperated(t)
	fill := placeholders(g)
	d, err := description()
	if err != nil {
		t.Fatal(err)
	}
	components := d.document["components"].(map[string]any)["schemas"].(map[string]any)
	for _, pattern := range d.patterns() {
		method, path, _ := strings.Cut(pattern, " ")
		operation := d.document["paths"].(map[string]any)[path].(map[string]any)[strings.ToLower(method)].(map[string]any)
		request, ok := operation["requestBody"].(map[string]any)
		if !ok || path == "/api/login" || path == "/api/setup" {
			continue
		}
		schema := request["content"].(map[string]any)["application/json"].(map[string]any)["schema"]
		body, err := json.Marshal(example(t, schema, components))
		if err != nil {
			t.Fatal(err)
		}
		answer := text(t, g.api(method, fill.Replace(path), string(body)))
		for _, wrong := range []string{"does not take", "wrong type", "is not JSON"} {
			if strings.Contains(answer, wrong) {
				t.Errorf("%s with %s: %s", pattern, body, answer)
			}
		}
	}
}

// example is a value of a schema, with every field that it may have.
func example(t *testing.T, schema any, components map[string]any) any {
	t.Helper()
	s := schema.(map[string]any)
	if ref, ok := s["$ref"].(string); ok {
		return example(t, components[strings.TrimPrefix(ref, "#/components/schemas/")], components)
	}
	if any, ok := s["anyOf"].([]any); ok {
		return example(t, any[0], components)
	}
	switch s["type"] {
	case "string":
		return "x"
	case "integer", "number":
		return 1
	case "boolean":
		return false
	case "array":
		return []any{example(t, s["items"], components)}
	case "object":
		value := map[string]any{}
		if more, ok := s["additionalProperties"].(map[string]any); ok {
			value["x"] = example(t, more, components)
		}
		properties, _ := s["properties"].(map[string]any)
		for name, of := range properties {
			value[name] = example(t, of, components)
		}
		return value
	}
	t.Fatalf("no example of %v", s)
	return nil
}
