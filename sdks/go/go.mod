module github.com/pgautomate/pgautomate/sdks/go

go 1.26.0

require github.com/novuhq/novu-go v1.5.0
