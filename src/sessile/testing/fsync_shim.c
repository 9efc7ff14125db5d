/* Makes the disk slow or broken for one folder, while a process runs: a library for LD_PRELOAD on Linux.
 *
 * SESSILE_FSYNC_FOLDER is the folder; files elsewhere are synced as always. SESSILE_FSYNC_CONTROL names a file that is
 * read at every call and holds one of: "pass", "delay MILLISECONDS", "fail EIO", "fail ENOSPC".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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

static int is_watched_file(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = '\0';
    return is_watched(path);
}

/* Waits or sets errno as the control file says; returns 0 when the real call shall be made. */
static int obey(void) {
    const char *control = getenv("SESSILE_FSYNC_CONTROL");
    char mode[64] = "";
    long milliseconds = 0;
    int fd = control == NULL ? -1 : open(control, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = read(fd, mode, sizeof mode - 1);
    close(fd);
    mode[length < 0 ? 0 : length] = '\0';
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

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (is_watched_file(fd) && obey() != 0) return -1;
    return real(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (is_watched_file(fd) && obey() != 0) return -1;
    return real(fd);
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
