// Package statemachine embeds the Amazon States Language definitions. The deployment (infra) and the local environment
// (internal/local) run the same bytes; only ${Placeholders} differ.
package statemachine

import _ "embed"

// Migration is the definition of the migration state machine.
//
//go:embed migration.asl.json
var Migration string

// Round is the definition of the round state machine.
//
//go:embed round.asl.json
var Round string

// Replay is the definition of the replay state machine.
//
//go:embed replay.asl.json
var Replay string
