package openapi

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

type innerView struct {
	N int `json:"n"`
}

type thing struct {
	Name string            `json:"name"`
	At   *time.Time        `json:"at"`
	In   *innerView        `json:"in,omitempty"`
	List []innerView       `json:"list"`
	Of   map[string]string `json:"of"`
	Any  json.RawMessage   `json:"any"`
	Skip string            `json:"-"`
	innerView
}

func TestDocument_BodiesAreWhatTheTypesEncodeTo(t *testing.T) {
	got := Document("an API", "7", map[string]Operation{
		"GET /things":        {Does: "Lists.", Gives: thing{}, List: true},
		"PUT /things/{name}": {Does: "Sets.", Takes: innerView{}, Query: []Parameter{{"hard", "whether"}}},
		"POST /in":           {Does: "Opens.", Takes: innerView{}, Gives: innerView{}, New: true, Open: true},
	}, struct {
		Error string `json:"error"`
	}{}, map[string]any{"cookie": map[string]any{"type": "apiKey"}})
	schemas := got["components"].(map[string]any)["schemas"].(map[string]any)
	want := map[string]any{
		"Inner": object(map[string]any{"n": kind("integer")}, "n"),
		"Thing": object(map[string]any{
			"name": kind("string"), "n": kind("integer"), "any": map[string]any{},
			"at":   map[string]any{"anyOf": []any{map[string]any{"type": "string", "format": "date-time"}, kind("null")}},
			"in":   map[string]any{"$ref": "#/components/schemas/Inner"},
			"list": map[string]any{"type": "array", "items": map[string]any{"$ref": "#/components/schemas/Inner"}},
			"of":   map[string]any{"type": "object", "additionalProperties": kind("string")},
		}, "name", "at", "list", "of", "any", "n"),
	}
	if !reflect.DeepEqual(schemas, want) {
		t.Errorf("got  %v\nwant %v", schemas, want)
	}
	put := got["paths"].(map[string]any)["/things/{name}"].(map[string]any)["put"].(map[string]any)
	if _, ok := put["responses"].(map[string]any)["204"]; !ok || len(put["parameters"].([]any)) != 2 {
		t.Errorf("PUT: %v", put)
	}
	in := got["paths"].(map[string]any)["/in"].(map[string]any)["post"].(map[string]any)
	if _, ok := in["responses"].(map[string]any)["201"]; !ok || len(in["security"].([]any)) != 0 {
		t.Errorf("POST: %v", in)
	}
}

func kind(name string) map[string]any { return map[string]any{"type": name} }

func object(properties map[string]any, required ...string) map[string]any {
	return map[string]any{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
}
