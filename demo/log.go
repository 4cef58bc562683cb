package demo

// Event logs: CSV files with a header and, in its first three columns, case, activity and time, whatever they are called.

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Event is one line of an event log.
type Event struct {
	Case, Activity string
	At             time.Time
}

// timeForms are the accepted forms of a time; those without a zone are UTC. Go reads fractions of a second after any of them.
var timeForms = []string{
	time.RFC3339, "2006-01-02 15:04:05", "2006/01/02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02",
	"2006/01/02",
}

// ReadLog reads an event log in the order of its replay: of time, then of the file. Errors are one line that names the file
// and the line.
func ReadLog(name string) ([]Event, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("the event log can't be read: %w", err)
	}
	defer f.Close()
	events, err := parseLog(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return events, nil
}

func parseLog(r io.Reader) ([]Event, error) {
	buffered := bufio.NewReader(r)
	if start, err := buffered.Peek(3); err == nil && bytes.Equal(start, []byte("\xef\xbb\xbf")) {
		_, _ = buffered.Discard(3)
	}
	reader := csv.NewReader(buffered)
	reader.FieldsPerRecord = -1
	reader.ReuseRecord = true
	header, err := reader.Read()
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the file is empty: it needs a header and the columns case, activity, time")
	case err != nil:
		return nil, lineOf(err)
	}
	if err := checkHeader(header); err != nil {
		line, _ := reader.FieldPos(0)
		return nil, fmt.Errorf("line %d: %w", line, err)
	}
	var events []Event
	for {
		record, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, lineOf(err)
		}
		event, column, err := parseEvent(record)
		if err != nil {
			line, _ := reader.FieldPos(min(column, len(record)-1))
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		events = append(events, event)
	}
	if len(events) == 0 {
		return nil, errors.New("there are no events below the header")
	}
	slices.SortStableFunc(events, func(a, b Event) int { return a.At.Compare(b.At) })
	return events, nil
}

// lineOf says the line first, as the other errors do.
func lineOf(err error) error {
	if parse, ok := errors.AsType[*csv.ParseError](err); ok {
		return fmt.Errorf("line %d: %w", parse.Line, parse.Err)
	}
	return err
}

var columns = [...]string{"case", "activity", "time"}

func missing(record []string) string {
	return fmt.Sprintf("the column %s is missing: needed are case, activity, time, with commas between them", columns[len(record)])
}

func checkHeader(header []string) error {
	if len(header) < len(columns) {
		return errors.New(missing(header))
	}
	if _, err := parseTime(header[2]); err == nil {
		return errors.New("this is an event, not a header: put a line such as case,activity,time above it")
	}
	return nil
}

// parseEvent also gives the column that an error is about.
func parseEvent(record []string) (Event, int, error) {
	if len(record) < len(columns) {
		return Event{}, len(record), errors.New(missing(record))
	}
	for i, value := range record[:2] {
		switch {
		case strings.TrimSpace(value) == "":
			return Event{}, i, fmt.Errorf("the %s is empty", columns[i])
		case !utf8.ValidString(value):
			return Event{}, i, fmt.Errorf("the %s %q is not UTF-8: convert the file", columns[i], value)
		case strings.Contains(value, "\x00"):
			return Event{}, i, fmt.Errorf("the %s %q holds a zero byte, which no text in Postgres can", columns[i], value)
		}
	}
	at, err := parseTime(record[2])
	if err != nil {
		return Event{}, 2, err
	}
	return Event{Case: record[0], Activity: record[1], At: at}, 0, nil
}

func parseTime(text string) (time.Time, error) {
	text = strings.TrimSpace(text)
	for _, form := range timeForms {
		if at, err := time.Parse(form, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("the time %q can't be read: write it as 2006-01-02 15:04:05 or 2006-01-02T15:04:05Z", text)
}

// Activities are the distinct activities of a log, in the order in which they first come.
func Activities(events []Event) []string {
	seen := map[string]struct{}{}
	var list []string
	for _, e := range events {
		if _, ok := seen[e.Activity]; !ok {
			seen[e.Activity] = struct{}{}
			list = append(list, e.Activity)
		}
	}
	return list
}
