package trigger

import (
	"testing"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m) }
