// Package imagetest makes disk images in formats that lull reads and no tool of
// Debian writes in full: differencing VHD and VHDX, and VHDX whose log is to be
// replayed. It shares no code with the readers, so that both are held against the
// formats, and against libvhdi (apt-get install python3-libvhdi) and QEMU.
package imagetest
