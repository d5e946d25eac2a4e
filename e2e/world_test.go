package e2e

import (
	"context"
	"errors"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// worldsAtOnce is how many tests run beside each other: most of what they do is
// to wait.
const worldsAtOnce = 4

// world is a lab with a gateway under policyText, its secrets stored and nobody
// joined.
type world struct {
	lab      *lab.Lab
	gateway  *lab.Gateway
	upstream *lab.Upstream // api.example.com, web.example.org and one.tenants.example.com
}

func newWorld(ctx context.Context) (_ *world, err error) {
	w := &world{upstream: new(lab.Upstream)}
	if w.lab, err = lab.New(ctx, lab.Config{Bin: lab.Binary(), Agents: 3}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.lab.Close())
		}
	}()
	for i, name := range []string{"api.example.com", "web.example.org", "one.tenants.example.com"} {
		if err := w.lab.ServeHTTPS(ctx, name, i, w.upstream); err != nil {
			return nil, err
		}
	}
	if w.gateway, err = w.lab.StartGateway(ctx, policyText, map[string]string{"lab-ca.pem": string(w.lab.PKI.PEM)}); err != nil {
		return nil, err
	}
	for _, c := range [][3]string{{"bearer", "api_token", apiToken}, {"basic", "git", gitPassword}, {"bearer", "tenants", apiToken}} {
		if err := w.gateway.Operator.SetCredential(ctx, c[0], c[1], c[2]); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// worlds are those that no test has at present. Nil is one that is yet to be
// made.
var worlds = make(chan *world, worldsAtOnce)

func init() {
	for range worldsAtOnce {
		worlds <- nil
	}
}

// ownWorld lets a test run beside others, in a world that it has for itself and
// leaves as it found it. One that a test has failed in is not used again.
func ownWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	w := <-worlds
	t.Cleanup(func() {
		if w != nil && t.Failed() {
			t.Logf("the gateway's log:\n%s", w.gateway.Log.Tail(40))
			if err := w.lab.Close(); err != nil {
				t.Error(err)
			}
			w = nil
		}
		worlds <- w
	})
	if w == nil {
		var err error
		if w, err = newWorld(context.WithoutCancel(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// closeWorlds ends those that were made. No test is running any more.
func closeWorlds() (err error) {
	for range worldsAtOnce {
		if w := <-worlds; w != nil {
			err = errors.Join(err, w.lab.Close())
		}
	}
	return err
}

// joinSecond joins the shared world's second agent host.
func joinSecond(t *testing.T) *lab.Joined {
	t.Helper()
	return shared.joinSecond(t)
}

// joinSecond joins the second agent host. The end of the test undoes it.
func (w *world) joinSecond(t *testing.T) *lab.Joined {
	t.Helper()
	return w.join(t, w.lab.Agents[1])
}

func (w *world) join(t *testing.T, h *lab.Host) *lab.Joined {
	t.Helper()
	j, err := w.lab.Join(t.Context(), h, w.gateway, "ci")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := j.Stop(); err != nil {
			t.Error(err)
		}
		if out, err := j.Run(ctx, w.lab.Bin, "leave"); err != nil {
			t.Errorf("leave: %v %s", err, out)
		}
		if err := w.gateway.Operator.Revoke(ctx, j.Registration); err != nil {
			t.Error(err)
		}
	})
	return j
}
