package jobs

// Action type log: renders a message, keeps it as the action's result and does
// nothing else. For trying things out.

import (
	"context"
	"encoding/json"
	"log/slog"
)

type logHandler struct{ logger *slog.Logger }

// LogOutput is the result of a log action.
type LogOutput struct {
	Message string `json:"message"`
}

func (h logHandler) Run(ctx context.Context, a *Action) (Result, error) {
	p, err := Render(ctx, a.Params, a.Vars)
	if err != nil {
		return Result{}, err
	}
	message, err := textParam(p, "message")
	if err != nil {
		return Result{}, Permanent(err)
	}
	h.logger.DebugContext(ctx, message, "action_id", a.ID, "organization_id", a.OrganizationID, "lead_id", a.LeadID)
	return Result{Output: LogOutput{message}}, nil
}

func (h logHandler) Validate(params json.RawMessage) error {
	return validateText(params, "message")
}
