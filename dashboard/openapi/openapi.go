// Package openapi describes an HTTP API of JSON in an OpenAPI 3.1 document. What
// the bodies look like is read off the Go types that are encoded and decoded, so
// that the document cannot say something else than the code.
package openapi

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Version is of the specification that documents follow.
const Version = "3.1.0"

// Operation is what one route does.
type Operation struct {
	Does  string      // one sentence
	Query []Parameter // of the URL
	Takes any         // a value of the type of the request's body; nil: it has none
	Gives any         // a value of the type of the answer; nil: it has no body, and status 204
	List  bool        // Gives is the type of the items of a list
	Media []string    // of an answer that is not JSON; Gives is then ignored
	Parts bool        // a Range is answered too (RFC 9110 section 14)
	New   bool        // the answer has status 201
	Open  bool        // needs no credential
}

// Parameter is one of a URL's query.
type Parameter struct{ Name, Does string }

// Document describes operations, by the pattern that net/http's ServeMux knows
// them by. title and version are of the API; failure is a value of the type of
// every answer to a request that fails; security names the ways to send a
// credential, any of which suffices, by their "securitySchemes".
func Document(title, version string, operations map[string]Operation, failure any, security map[string]any) map[string]any {
	s := schemas{components: map[string]any{}, types: map[string]reflect.Type{}}
	failed := s.of(reflect.TypeOf(failure))
	paths := map[string]any{}
	for _, pattern := range slices.Sorted(maps.Keys(operations)) {
		method, path, _ := strings.Cut(pattern, " ")
		of, _ := paths[path].(map[string]any)
		if of == nil {
			of = map[string]any{}
			paths[path] = of
		}
		of[strings.ToLower(method)] = s.operation(operations[pattern], path, failed)
	}
	var ways []any
	for _, name := range slices.Sorted(maps.Keys(security)) {
		ways = append(ways, map[string]any{name: []string{}})
	}
	return map[string]any{
		"openapi":    Version,
		"info":       map[string]any{"title": title, "version": version},
		"paths":      paths,
		"security":   ways,
		"components": map[string]any{"schemas": s.components, "securitySchemes": security},
	}
}

func (s schemas) operation(o Operation, path string, failed any) map[string]any {
	status, answer := http.StatusOK, map[string]any{"description": "done"}
	switch {
	case o.Media != nil:
		kinds := map[string]any{}
		for _, media := range o.Media {
			maps.Copy(kinds, content(media, map[string]any{"type": "string"}))
		}
		answer["content"] = kinds
	case o.Gives == nil:
		status = http.StatusNoContent
	case o.List:
		answer["content"] = content("application/json", map[string]any{
			"type": "object", "required": []string{"items"}, "additionalProperties": false,
			"properties": map[string]any{
				"items": map[string]any{"type": "array", "items": s.of(reflect.TypeOf(o.Gives))},
				"next":  map[string]any{"type": "string", "description": "the parameter cursor of the next page; absent at the end"},
			},
		})
	default:
		answer["content"] = content("application/json", s.of(reflect.TypeOf(o.Gives)))
	}
	if o.New {
		status = http.StatusCreated
	}
	responses := map[string]any{
		strconv.Itoa(status): answer,
		"default":            map[string]any{"description": "it failed", "content": content("application/json", failed)},
	}
	if o.Parts {
		responses[strconv.Itoa(http.StatusPartialContent)] = answer
	}
	d := map[string]any{"summary": o.Does, "responses": responses}
	var parameters []any
	for _, name := range wildcards(path) {
		parameters = append(parameters, map[string]any{"name": name, "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
	}
	for _, q := range o.Query {
		parameters = append(parameters, map[string]any{"name": q.Name, "in": "query", "description": q.Does, "schema": map[string]any{"type": "string"}})
	}
	if parameters != nil {
		d["parameters"] = parameters
	}
	if o.Takes != nil {
		d["requestBody"] = map[string]any{"required": true, "content": content("application/json", s.of(reflect.TypeOf(o.Takes)))}
	}
	if o.Open {
		d["security"] = []any{}
	}
	return d
}

func content(media string, schema any) map[string]any {
	return map[string]any{media: map[string]any{"schema": schema}}
}

// wildcards are the names in braces of a pattern's path.
func wildcards(path string) []string {
	var names []string
	for part := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			names = append(names, strings.TrimSuffix(name, "}"))
		}
	}
	return names
}

// schemas are the components of a document, by name.
type schemas struct {
	components map[string]any
	types      map[string]reflect.Type // that they describe
}

// of returns the schema of what encoding/json makes of a t: JSON Schema 2020-12,
// the dialect of OpenAPI 3.1. It panics at a kind of type that no API of ours has.
func (s schemas) of(t reflect.Type) map[string]any {
	switch t.PkgPath() + "." + t.Name() {
	case "time.Time":
		return map[string]any{"type": "string", "format": "date-time"}
	case "encoding/json.RawMessage":
		return map[string]any{}
	}
	switch t.Kind() {
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Int32, reflect.Int16, reflect.Uint, reflect.Uint64, reflect.Uint32, reflect.Uint16, reflect.Uint8:
		return map[string]any{"type": "integer"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Pointer:
		return map[string]any{"anyOf": []any{s.of(t.Elem()), map[string]any{"type": "null"}}}
	case reflect.Struct:
		name := componentName(t)
		if name == "" {
			return s.object(t)
		}
		switch was := s.types[name]; was {
		case nil:
			s.types[name] = t // before its fields: it may hold itself
			s.components[name] = s.object(t)
		case t:
		default:
			panic(fmt.Sprintf("openapi: %s and %s are both called %s", was, t, name))
		}
		return map[string]any{"$ref": "#/components/schemas/" + name}
	}
	panic("openapi: no schema for " + t.String())
}

// componentName is what a type is called in the document: registrationView is
// Registration.
func componentName(t reflect.Type) string {
	name := strings.TrimSuffix(t.Name(), "View")
	if name == "" {
		return ""
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

// object is the schema of a struct: its exported fields, those of what it embeds
// included.
func (s schemas) object(t reflect.Type) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, f := range reflect.VisibleFields(t) {
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		if f.Anonymous || name == "-" || !f.IsExported() {
			continue
		}
		if name == "" {
			panic(fmt.Sprintf("openapi: field %s of %s has no name", f.Name, t))
		}
		properties[name] = s.of(f.Type)
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") {
			required = append(required, name)
		} else if f.Type.Kind() == reflect.Pointer {
			properties[name] = s.of(f.Type.Elem()) // it is left out instead of null
		}
	}
	return map[string]any{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
}
