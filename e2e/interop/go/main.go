// A relay between TCP and HTTP/2 CONNECT on Go's HTTP/2, without TLS. Started by e2e/tests/foreign/relay.rs:
//
//	go-relay server LISTEN             accepts CONNECT and dials the authority
//	go-relay client LISTEN TARGET AUTHORITY   accepts TCP and opens CONNECT at TARGET
//
// Half-closes pass in both directions as far as Go can carry them; what breaks one side resets the other.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"

	"golang.org/x/net/http2"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("server LISTEN | client LISTEN TARGET AUTHORITY")
	}
	listener, err := net.Listen("tcp", os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	serve := acceptTunnels
	if os.Args[1] == "client" {
		serve = openTunnels(os.Args[3], os.Args[4])
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(conn.(*net.TCPConn))
	}
}

func acceptTunnels(conn *net.TCPConn) {
	server := &http2.Server{MaxConcurrentStreams: 200}
	server.ServeConn(conn, &http2.ServeConnOpts{Handler: http.HandlerFunc(tunnel)})
}

// Serves one CONNECT. Go closes our half when this returns, so it returns when both directions are done.
func tunnel(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	conn, err := net.Dial("tcp", r.Host)
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	app := conn.(*net.TCPConn)
	defer app.Close()
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	if flush.Flush() != nil {
		return
	}
	up := make(chan error, 1)
	go func() {
		_, err := io.Copy(app, r.Body)
		if err == nil {
			err = app.CloseWrite()
		} else {
			abort(app)
		}
		up <- err
	}()
	err = copyFlushing(w, flush, app)
	if err != nil {
		abort(app)
		panic(http.ErrAbortHandler)
	}
	if <-up != nil {
		panic(http.ErrAbortHandler)
	}
}

func copyFlushing(w io.Writer, flush *http.ResponseController, app io.Reader) error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := app.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			if err := flush.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func openTunnels(target, authority string) func(*net.TCPConn) {
	transport := &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, target)
		},
	}
	return func(app *net.TCPConn) {
		defer app.Close()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		body, writer := io.Pipe()
		sent := make(chan struct{})
		request := (&http.Request{
			Method:        http.MethodConnect,
			URL:           &url.URL{Scheme: "http", Host: authority},
			Host:          authority,
			Header:        http.Header{},
			Body:          &requestBody{PipeReader: body, sent: sent},
			ContentLength: -1,
		}).WithContext(ctx)
		go func() {
			_, err := io.Copy(writer, app)
			if err != nil {
				// The application is gone: the stream is reset.
				cancel()
			}
			writer.CloseWithError(err)
		}()
		response, err := transport.RoundTrip(request)
		if err != nil || response.StatusCode != http.StatusOK {
			abort(app)
			return
		}
		defer response.Body.Close()
		if _, err := io.Copy(app, response.Body); err != nil {
			abort(app)
			return
		}
		if app.CloseWrite() != nil {
			return
		}
		// Until the application has ended its half too, and the transport has said so.
		<-sent
	}
}

// The body of a CONNECT; the transport closes it behind its last frame.
type requestBody struct {
	*io.PipeReader
	sent chan struct{}
	once sync.Once
}

func (b *requestBody) Close() error {
	b.once.Do(func() { close(b.sent) })
	return b.PipeReader.Close()
}

func abort(app *net.TCPConn) {
	app.SetLinger(0)
	app.Close()
}
