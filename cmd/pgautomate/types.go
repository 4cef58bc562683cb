package main

import (
	"context"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"
)

// migration is one direction of the migrations.
type migration func(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) error
