// Go's HTTP/2 as the other end of a tunnel (golang.org/x/net/http2, which net/http bundles). Built by e2e/tool.
module causeway/e2e/interop/go

go 1.24

require golang.org/x/net v0.43.0

require golang.org/x/text v0.28.0 // indirect
