//go:build deps

package pgautomate

import (
	_ "github.com/danielgtaylor/huma/v2"
	_ "github.com/emersion/go-smtp"
	_ "github.com/fergusstrange/embedded-postgres"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/jackc/pglogrepl"
	_ "github.com/jackc/pgx/v5"
	_ "github.com/osteele/liquid"
	_ "github.com/pressly/goose/v3"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/riverqueue/river"
	_ "github.com/riverqueue/river/riverdriver/riverpgxv5"
	_ "github.com/riverqueue/river/rivermigrate"
	_ "github.com/spf13/cobra"
	_ "github.com/standard-webhooks/standard-webhooks/libraries/go"
	_ "github.com/wneessen/go-mail"
	_ "go.uber.org/goleak"
	_ "pgregory.net/rapid"
	_ "riverqueue.com/riverui"
	_ "github.com/shopspring/decimal"
	_ "golang.org/x/sync/errgroup"
	_ "github.com/cockroachdb/apd/v3"
	_ "github.com/chromedp/chromedp"
)
