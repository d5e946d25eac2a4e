package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/clawpatrol/clawpatrol/control"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
)

// openControl answers on the control socket from now until the gateway is closed.
func (g *gateway) openControl(stateDir string) error {
	s, err := control.Open(stateDir, map[string]control.Command{
		doInvite: taking(func(ctx context.Context, by string, req invites.Request) (any, error) {
			return g.invites.Make(ctx, by, req)
		}),
		doList: taking(func(ctx context.Context, _ string, _ *struct{}) (any, error) {
			return g.invites.List(ctx)
		}),
		doVoid: taking(func(ctx context.Context, by string, args voided) (any, error) {
			return args, g.invites.Void(ctx, by, args.ID)
		}),
	})
	if err != nil {
		return err
	}
	g.onClose(s.Close)
	return nil
}

// taking decodes a command's arguments.
func taking[Args any](do func(ctx context.Context, by string, args Args) (any, error)) control.Command {
	return func(ctx context.Context, by string, raw json.RawMessage) (any, error) {
		var args Args
		if err := json.Unmarshal(raw, &args); err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		return do(ctx, by, args)
	}
}
