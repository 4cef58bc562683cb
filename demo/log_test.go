package demo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseLog(t *testing.T) {
	t.Parallel()
	at := func(second int) time.Time { return time.Date(2012, 4, 3, 16, 55, second, 0, time.UTC) }
	const day = "2012-04-03 16:55:"
	tests := map[string]struct {
		text string
		want []Event
	}{
		"plain":                  {"c,a,t\n1,x," + day + "01\n", []Event{{"1", "x", at(1)}}},
		"no newline at the end":  {"c,a,t\n1,x," + day + "01", []Event{{"1", "x", at(1)}}},
		"BOM and CRLF":           {"\xef\xbb\xbfc,a,t\r\n1,x," + day + "01\r\n2,y," + day + "02\r\n", []Event{{"1", "x", at(1)}, {"2", "y", at(2)}}},
		"BOM and a quoted name":  {"\xef\xbb\xbf\"c\",a,t\n1,x," + day + "01\n", []Event{{"1", "x", at(1)}}},
		"more columns":           {"c,a,t,who\n1,x," + day + "01,me\n2,y," + day + "02\n", []Event{{"1", "x", at(1)}, {"2", "y", at(2)}}},
		"empty lines":            {"c,a,t\n\n1,x," + day + "01\n\n", []Event{{"1", "x", at(1)}}},
		"quoted fields":          {"c,a,t\n\"1,5\",\"say \"\"x\"\"\nand y\"," + day + "01\n", []Event{{"1,5", "say \"x\"\nand y", at(1)}}},
		"blanks are part of it":  {"c,a,t\n 1,x , " + day + "01 \n", []Event{{" 1", "x ", at(1)}}},
		"by time, then the file": {"c,a,t\n1,x," + day + "02\n2,x," + day + "01\n3,x," + day + "02\n4,x," + day + "01\n", []Event{{"2", "x", at(1)}, {"4", "x", at(1)}, {"1", "x", at(2)}, {"3", "x", at(2)}}},
		"forms of time": {
			"c,a,t\n1,a,2012-04-03\n1,b,2012/04/03 16:55:01.000\n1,c,2012-04-03T16:55:02Z\n1,d,2012-04-03T18:55:03+02:00\n1,e,2012-04-03 16:55:03.5\n1,f,2012-04-03T16:55:04\n",
			[]Event{
				{"1", "a", time.Date(2012, 4, 3, 0, 0, 0, 0, time.UTC)},
				{"1", "b", at(1)}, {"1", "c", at(2)}, {"1", "d", at(3)}, {"1", "e", at(3).Add(500 * time.Millisecond)}, {"1", "f", at(4)},
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseLog(strings.NewReader(tc.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" { // by time.Time's Equal
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseLogRefuses(t *testing.T) {
	t.Parallel()
	const good = "1,x,2012-04-03\n"
	tests := map[string]struct{ text, want string }{
		"nothing":              {"", "the file is empty"},
		"BOM alone":            {"\xef\xbb\xbf", "the file is empty"},
		"header alone":         {"c,a,t\n", "no events below the header"},
		"header too short":     {"c,a\n" + good, "line 1: the column time is missing"},
		"other separator":      {"c;a;t\n1;x;2012-04-03\n", "line 1: the column activity is missing"},
		"no header":            {good + good, "line 1: this is an event, not a header"},
		"line too short":       {"c,a,t\n" + good + "1,x\n", "line 3: the column time is missing"},
		"unreadable time":      {"c,a,t\n" + good + good + "1,x,yesterday\n", `line 4: the time "yesterday" can't be read`},
		"no such day":          {"c,a,t\n1,x,2011-02-29\n", `line 2: the time "2011-02-29" can't be read`},
		"empty time":           {"c,a,t\n1,x,\n", `line 2: the time "" can't be read`},
		"empty case":           {"c,a,t\n,x,2012-04-03\n", "line 2: the case is empty"},
		"blank activity":       {"c,a,t\n1, ,2012-04-03\n", "line 2: the activity is empty"},
		"open quote":           {"c,a,t\n" + good + "1,\"x,2012-04-03\n", "line 3: "},
		"stray quote":          {"c,a,t\n" + good + "1,x\"y,2012-04-03\n", "line 3: "},
		"after a quoted break": {"c,a,t\n\"1\n2\",x,2012-04-03\n1,,2012-04-03\n", "line 4: the activity is empty"},
		"after an empty line":  {"c,a,t\n\n\n1,,2012-04-03\n", "line 4: the activity is empty"},
		"Latin-1":              {"c,a,t\n1,caf\xe9,2012-04-03\n", `line 2: the activity "caf\xe9" is not UTF-8`},
		"zero byte":            {"c,a,t\n1\x00,x,2012-04-03\n", `line 2: the case "1\x00" holds a zero byte`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events, err := parseLog(strings.NewReader(tc.text))
			if err == nil {
				t.Fatalf("accepted: %v", events)
			}
			if !strings.HasPrefix(err.Error(), tc.want) && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%q doesn't say %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

func TestReadLogNamesFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "events.csv")
	if _, err := ReadLog(name); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("a file that isn't there: %v", err)
	}
	if err := os.WriteFile(name, []byte("c,a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadLog(name); err == nil || !strings.HasPrefix(err.Error(), name+": line 1: ") {
		t.Errorf("a bad file: %v", err)
	}
}

func TestActivities(t *testing.T) {
	t.Parallel()
	got := Activities([]Event{{Activity: "b"}, {Activity: "a"}, {Activity: "b"}, {Activity: "B"}})
	if diff := cmp.Diff([]string{"b", "a", "B"}, got); diff != "" {
		t.Error(diff)
	}
}
