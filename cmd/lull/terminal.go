package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxLine is the longest line that the kernel's line editing gives, in bytes.
const maxLine = 4096

// terminalAsk reads one line from a terminal without showing it. It looks at the
// context five times a second, so that an interrupted prompt gives the terminal
// back with its echo on.
func terminalAsk(in *os.File, out io.Writer) func(context.Context, string) ([]byte, error) {
	return func(ctx context.Context, prompt string) ([]byte, error) {
		fd := int(in.Fd())
		was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return nil, fmt.Errorf("read terminal: %w", err)
		}
		silent := *was
		silent.Lflag &^= unix.ECHO
		silent.Lflag |= unix.ICANON | unix.ISIG
		silent.Iflag |= unix.ICRNL
		if err := unix.IoctlSetTermios(fd, unix.TCSETS, &silent); err != nil {
			return nil, fmt.Errorf("silence terminal: %w", err)
		}
		fmt.Fprint(out, prompt)
		line, err := readLine(ctx, fd)
		fmt.Fprintln(out)
		if restored := unix.IoctlSetTermios(fd, unix.TCSETS, was); err == nil && restored != nil {
			err = fmt.Errorf("restore terminal: %w", restored)
		}
		return line, err
	}
}

// readLine waits for a whole line; in canonical mode one read returns it.
func readLine(ctx context.Context, fd int) ([]byte, error) {
	const look = 200 // milliseconds
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := unix.Poll(ready, look)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("wait for terminal: %w", err)
		}
		if n > 0 {
			break
		}
	}
	buf := make([]byte, maxLine)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return nil, fmt.Errorf("read terminal: %w", err)
	}
	return bytes.TrimRight(buf[:n], "\r\n"), nil
}
