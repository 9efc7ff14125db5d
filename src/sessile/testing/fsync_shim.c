/* Makes the disk slow or broken for one folder, while a process runs: a library for LD_PRELOAD on Linux.
 *
 * SESSILE_FSYNC_FOLDER is the folder; files elsewhere are synced as always. SESSILE_FSYNC_CONTROL names a file that is
 * read at every call and holds one of: "pass", "delay MILLISECONDS", "fail EIO", "fail ENOSPC", "full" (no write has
 * room), "kill before N", "kill after N" (the process is killed before it writes its N-th commit from now on, or once
 * that is synced; a commit is what is written to a file ending in -wal and then synced).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int is_watched(const char *path) {
    const char *folder = getenv("SESSILE_FSYNC_FOLDER");
    return folder != NULL && *folder != '\0' && strncmp(path, folder, strlen(folder)) == 0;
}

/* Whether an open file is in the folder, and its name ends so. */
static int is_watched_as(int fd, const char *ending) {
    char link[64], path[PATH_MAX];
    size_t tail = strlen(ending);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)tail) return 0;
    path[length] = '\0';
    return is_watched(path) && strcmp(path + length - tail, ending) == 0;
}

static int is_watched_file(int fd) {
    return is_watched_as(fd, "");
}

static int is_watched_log(int fd) {
    return is_watched_as(fd, "-wal");
}

static void read_mode(char *mode, size_t size) {
    const char *control = getenv("SESSILE_FSYNC_CONTROL");
    int fd = control == NULL ? -1 : open(control, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, mode, size - 1);
    if (fd >= 0) close(fd);
    mode[length < 0 ? 0 : length] = '\0';
}

/* Kills the process when the mode says so: at the first write of a commit, or after its sync. */
static void live_or_die(int synced) {
    static char counted[64] = "";
    static long commits = 0;
    char mode[64] = "", when[8] = "";
    long number = 0;
    read_mode(mode, sizeof mode);
    if (strcmp(mode, counted) != 0) {
        strcpy(counted, mode);
        commits = 0;
    }
    if (sscanf(mode, "kill %7s %ld", when, &number) != 2) return;
    commits += synced;
    if (synced == (strcmp(when, "after") == 0) && commits == number - !synced) kill(getpid(), SIGKILL);
}

/* Waits or sets errno as the control file says; returns 0 when the real call shall be made. */
static int obey(void) {
    char mode[64] = "";
    long milliseconds = 0;
    read_mode(mode, sizeof mode);
    if (sscanf(mode, "delay %ld", &milliseconds) == 1) {
        struct timespec pause = {milliseconds / 1000, (milliseconds % 1000) * 1000000};
        while (nanosleep(&pause, &pause) != 0 && errno == EINTR) {
        }
        return 0;
    }
    if (strncmp(mode, "fail", 4) != 0) return 0;
    errno = strstr(mode, "ENOSPC") != NULL ? ENOSPC : EIO;
    return -1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    char mode[64] = "";
    if (is_watched_file(fd)) {
        if (is_watched_log(fd)) live_or_die(0);
        read_mode(mode, sizeof mode);
        if (strncmp(mode, "full", 4) == 0) {
            errno = ENOSPC;
            return -1;
        }
    }
    return real(fd, bytes, count, offset);
}

/* A sync that a commit waits for. */
static int sync_with(int fd, int (*real)(int)) {
    if (!is_watched_file(fd)) return real(fd);
    if (obey() != 0) return -1;
    int result = real(fd);
    if (result == 0 && is_watched_log(fd)) live_or_die(1);
    return result;
}

int fsync(int fd) {
    return sync_with(fd, (int (*)(int))dlsym(RTLD_NEXT, "fsync"));
}

int fdatasync(int fd) {
    return sync_with(fd, (int (*)(int))dlsym(RTLD_NEXT, "fdatasync"));
}

int sync_file_range(int fd, off_t offset, off_t bytes, unsigned int flags) {
    int (*real)(int, off_t, off_t, unsigned int) =
        (int (*)(int, off_t, off_t, unsigned int))dlsym(RTLD_NEXT, "sync_file_range");
    if (is_watched_file(fd) && obey() != 0) return -1;
    return real(fd, offset, bytes, flags);
}

/* A mapping does not say which file it belongs to, so every one obeys: SQLite syncs mappings of its own files only. */
int msync(void *address, size_t length, int flags) {
    int (*real)(void *, size_t, int) = (int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "msync");
    if (obey() != 0) return -1;
    return real(address, length, flags);
}
