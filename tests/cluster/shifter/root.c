#define _GNU_SOURCE
#include "root.h"

#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the container shares with its host. */
static const char *const SITE[] = {"/proc", "/sys", "/dev", "/home", "/tmp", "/var/tmp", NULL};
/* Volumes may not cover them; /tmp and /var/tmp they may. */
static const char *const COVERED[] = {"/proc", "/sys", "/dev", "/home", NULL};
/* What /etc has from the host, beside the files that are made for the user. */
static const char *const HOST_ETC[] = {"/etc/hosts", "/etc/resolv.conf", NULL};
static const char NSSWITCH[] = "passwd: files\ngroup: files\nhosts: files dns\n";
static const unsigned LOOP_SECONDS = 600;
/* mkfs.xfs makes no smaller one. */
static const long long CACHE_AT_LEAST = 300LL << 20;
/* Where volumes are mounted already. */
static char **mounted;

static int bind(const char *from, const char *to, int read_only) {
    if (!mount(from, to, NULL, MS_BIND | MS_REC, NULL)) {
        unsigned long flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV;
        if (!read_only || !mount(NULL, to, NULL, flags | MS_RDONLY, NULL))
            return 0;
    }
    fprintf(stderr, "BIND MOUNT FAILED from %s to %s: %s\n", from, to, strerror(errno));
    return -1;
}

/* Make a directory and those above it; what is there already stays. */
static void make_directories(const char *path) {
    char *copy = format("%s", path);
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(copy, 0755);
        *slash = '/';
    }
    mkdir(copy, 0755);
    free(copy);
}

static int write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "we");
    return !file || fputs(text, file) < 0 || fclose(file) ? -1 : 0;
}

/* Copy a symbolic link, bind anything else. */
static int import(const char *from, const char *to) {
    struct stat status;
    char target[PATH_MAX] = "";
    if (lstat(from, &status) || !lstat(to, &(struct stat){0}))
        return 0; /* what the site has put there goes before the image */
    if (S_ISLNK(status.st_mode))
        return readlink(from, target, sizeof target - 1) < 0 ? -1 : symlink(target, to);
    if (S_ISDIR(status.st_mode) ? mkdir(to, 0755) : write_file(to, ""))
        return -1;
    return bind(from, to, 1);
}

static int import_directory(const struct image *image, const char *directory) {
    char *from = format("%s%s", image->tree, directory);
    DIR *entries = opendir(from);
    struct dirent *entry;
    int result = 0;
    while (!result && entries && (entry = readdir(entries))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        char *source = format("%s/%s", from, entry->d_name), *target = format(ROOT "%s/%s", directory, entry->d_name);
        result = import(source, target);
        free(source);
        free(target);
    }
    if (entries)
        closedir(entries);
    free(from);
    return result;
}

static int share_with_host(const struct user *user) {
    for (const char *const *site = SITE; *site; site++) {
        char *target = format(ROOT "%s", *site);
        make_directories(target);
        if (bind(*site, target, 0))
            return -1;
        free(target);
    }
    for (const char *const *file = HOST_ETC; *file; file++)
        if (!access(*file, F_OK) && import(*file, format(ROOT "%s", *file)))
            return -1;
    return write_file(ROOT "/etc/passwd", user->passwd) || write_file(ROOT "/etc/group", user->group) ||
           write_file(ROOT "/etc/nsswitch.conf", NSSWITCH);
}

static int hide(const struct image *image) {
    for (char **hidden = image->hidden; hidden && *hidden; hidden++) {
        char *target = format(ROOT "%s", *hidden);
        if (!access(target, F_OK) && mount(NULL, target, "tmpfs", MS_RDONLY, "mode=755"))
            return -1;
        free(target);
    }
    return 0;
}

static int mount_image(const struct image *image, const struct user *user) {
    static const char *const own[] = {ROOT "/etc", ROOT "/opt", ROOT "/var", NULL};
    struct stat status;
    umask(022);
    if (stat(image->tree, &status) || !S_ISDIR(status.st_mode)) {
        fprintf(stderr, "FAILED to mount image on loop device.\n");
        return -1;
    }
    mkdir(ROOT, 0755);
    if (mount(NULL, ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"))
        return -1;
    for (const char *const *path = own; *path; path++)
        mkdir(*path, 0755);
    if (share_with_host(user) || import_directory(image, "/"))
        return -1;
    if (import_directory(image, "/etc") || import_directory(image, "/opt") || import_directory(image, "/var"))
        return -1;
    return hide(image);
}

/* The real one never comes back from a circle of links; this one does, so that nothing is left behind. */
static void loop_if_circle(const char *path) {
    struct stat status;
    if (!stat(path, &status) || errno != ELOOP)
        return;
    alarm(LOOP_SECONDS);
    for (;;)
        lstat(path, &status);
}

/* The source as the user sees it, inside the container: no symbolic link leads out of it. The real one follows absolute
 * links inside too, but for those to directories of the root, such as /tmp; this one follows none. */
static char *find_source(const struct volume *volume, const struct user *user) {
    char *path = format(ROOT "%s", volume->from), *real = NULL;
    size_t end = strlen(path);
    struct stat status;
    while (path[end - 1] == '/')
        path[--end] = 0;
    if (setgroups((size_t)user->count, user->groups) || setegid(user->gid) || seteuid(user->uid))
        return NULL;
    loop_if_circle(path);
    real = realpath(path, NULL);
    if (!real)
        fprintf(stderr, "shifter_realpath: failed to lstat %s\nFAILED to find real path for volume \"from\": %s\n", path,
                volume->from);
    else if (stat(real, &status) || !S_ISDIR(status.st_mode)) {
        fprintf(stderr, "FAILED \"from\" location is not directory: %s\n", real);
        real = NULL;
    } else if (strncmp(real, ROOT "/", sizeof ROOT)) {
        fprintf(stderr, "Invalid source %s, not allowed, fail.\n", real);
        real = NULL;
    }
    if (seteuid(0) || setegid(0) || setgroups(1, &(gid_t){0}))
        return NULL;
    return real;
}

static int on_root(const char *path) {
    struct stat status, root;
    return !stat(path, &status) && !stat(ROOT, &root) && status.st_dev == root.st_dev;
}

static int make_target(const char *path) {
    struct stat status;
    char *parent = format("%s", path);
    *strrchr(parent, '/') = 0;
    if (lstat(path, &status) && (!on_root(parent) || mkdir(path, 0755))) {
        fprintf(stderr, "FAILED to create volume \"to\": %s, cannot create mount points in that location\n", path);
        return -1;
    }
    free(parent);
    if (stat(path, &status) || !S_ISDIR(status.st_mode)) {
        fprintf(stderr, "FAILED \"to\" location is not directory: %s\n", path);
        return -1;
    }
    return 0;
}

static int may_be_covered(const char *real) {
    if (strncmp(real, ROOT "/", sizeof ROOT)) {
        fprintf(stderr, "Invalid destination %s, not allowed, fail.\n", real);
        return 0;
    }
    for (const char *const *site = COVERED; *site; site++)
        if (!strncmp(real + strlen(ROOT), *site, strlen(*site))) {
            fprintf(stderr, "Mount request path %s not on an approved device for volume mounts.\n", real);
            return 0;
        }
    for (char **other = mounted; other && *other; other++)
        if (!strcmp(real, *other)) {
            fprintf(stderr, "Mount request path %s not on an approved device for volume mounts.\n", real);
            return 0;
        }
    return 1;
}

static int mount_cache(const struct volume *volume, const char *target, const struct user *user) {
    if (volume->cache < CACHE_AT_LEAST) {
        fprintf(stderr, "FAILED to create the XFS cache filesystem on /var/tmp/cache\nFAILED to setup perNodeCache\n");
        return -1;
    }
    char *options = format("size=%lld,mode=755,uid=%d,gid=%d", volume->cache, (int)user->uid, (int)user->gid);
    return mount(NULL, target, "tmpfs", MS_NOSUID | MS_NODEV, options);
}

static int mount_volume(const struct volume *volume, const struct user *user) {
    char *target = format(ROOT "%s", volume->to), *source = NULL;
    if (!volume->cache && !(source = find_source(volume, user)))
        return -1;
    if (make_target(target))
        return -1;
    char *real = realpath(target, NULL);
    if (!real || !may_be_covered(real))
        return -1;
    mounted = append(mounted, real);
    return volume->cache ? mount_cache(volume, real, user) : bind(source, real, volume->read_only);
}

/* Each is "from:to". */
static int mount_modules(char *const *binds) {
    for (; binds && *binds; binds++) {
        char *from = format("%s", *binds), *to = strchr(from, ':');
        *to++ = 0;
        char *target = format(ROOT "%s", to);
        make_directories(target);
        if (bind(from, target, 1))
            return -1;
        free(from);
        free(target);
    }
    return 0;
}

int make_root(const struct image *image, const struct volumes *volumes, char *const *binds, const struct user *user) {
    if (setgroups(1, &(gid_t){0}) || setresgid(0, 0, 0) || setresuid(0, 0, 0)) {
        perror("Failed to become root");
        return -1;
    }
    usleep((useconds_t)(atof(image->delay) * 1e6));
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL)) {
        perror("Failed to unshare the filesystem namespace.");
        return -1;
    }
    if (!image->tree || mount_image(image, user) || mount_modules(binds)) {
        fprintf(stderr, "FAILED to mount image into UDI\n");
        return -1;
    }
    for (size_t i = 0; i < volumes->count; i++)
        if (mount_volume(&volumes->list[i], user)) {
            fprintf(stderr, "FAILED to setup user-requested mounts.\n");
            return -1;
        }
    return 0;
}
