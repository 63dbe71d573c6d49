package mariadb

import (
	"fmt"
	"time"
)

// The first versions with the locks of today.
const (
	stagedMajor, stagedMinor = 10, 4 // MariaDB's BACKUP STAGE
	oldestMySQL              = 8
	oldestMariaDB            = 10
)

// wait bounds how long a lock is waited for.
const (
	longestWait  = 4 * time.Second
	shortestWait = time.Second
)

// lockSQL is what holds a server: no commit ends and no table is changed until the
// connection's end. While it waits for its turn, others wait behind it, so the
// wait is short. n is the server's number, which it gives back.
//
// BACKUP STAGE lets InnoDB's open transactions and SELECTs run. FLUSH TABLES WITH READ LOCK
// waits for every statement. LOCK INSTANCE FOR BACKUP keeps DDL away that the other
// lock does not see.
func (v variables) lockSQL(n int, wait, hold time.Duration) string {
	session := fmt.Sprintf("SET SESSION lock_wait_timeout = %d; SET SESSION wait_timeout = %d;\n", int(wait/time.Second), int(hold/time.Second))
	if !v.mariaDB() {
		return session + fmt.Sprintf(`LOCK INSTANCE FOR BACKUP;
FLUSH TABLES WITH READ LOCK;
SELECT 'lull-locked', %d, JSON_UNQUOTE(JSON_EXTRACT(LOCAL, '$.binary_log_file')), JSON_EXTRACT(LOCAL, '$.binary_log_position'), @@GLOBAL.gtid_executed FROM performance_schema.log_status;`, n)
	}
	lock := "FLUSH TABLES WITH READ LOCK;\n"
	if v.staged() {
		lock = "BACKUP STAGE START;\nBACKUP STAGE FLUSH;\nBACKUP STAGE BLOCK_DDL;\nBACKUP STAGE BLOCK_COMMIT;\n"
	}
	return session + lock + fmt.Sprintf(`SELECT 'lull-locked', %d,
 (SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'BINLOG_SNAPSHOT_FILE'),
 (SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'BINLOG_SNAPSHOT_POSITION'), @@GLOBAL.gtid_binlog_pos;`, n)
}

// staged says whether a MariaDB has BACKUP STAGE.
func (v variables) staged() bool {
	major, minor, err := v.version()
	return err == nil && v.mariaDB() && (major > stagedMajor || major == stagedMajor && minor >= stagedMinor)
}

// lockName is for the document.
func (v variables) lockName() string {
	switch {
	case v.staged():
		return "BACKUP STAGE BLOCK_COMMIT"
	case v.mariaDB():
		return "FLUSH TABLES WITH READ LOCK"
	}
	return "LOCK INSTANCE FOR BACKUP, FLUSH TABLES WITH READ LOCK"
}

// tooOld says whether a version is not served.
func (v variables) tooOld() bool {
	major, _, err := v.version()
	if v.mariaDB() {
		return err != nil || major < oldestMariaDB
	}
	return err != nil || major < oldestMySQL
}
