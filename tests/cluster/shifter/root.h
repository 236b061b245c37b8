/* The root directory of a container, put together from mounts in a mount namespace of its own. */
#ifndef ROOT_H
#define ROOT_H

#include "common.h"

#include <sys/types.h>

#define ROOT "/run/udiMount" /* on every host, in its own /run */

struct image {
    char *id;
    char *tree;     /* its files, unpacked */
    char *delay;    /* seconds that setting it up takes */
    char *users;    /* "20001,20002": who may read it; everybody if there is none */
    char *workdir;
    char **entrypoint;
    char **command;
    char **env;
    char **hidden;  /* directories of the tree that the container does not see */
};

struct user {
    uid_t uid;
    gid_t gid;
    char *name;
    char *passwd; /* the lines of /etc/passwd and /etc/group that the container has */
    char *group;
    gid_t groups[64];
    int count;
};

/* Needs full root. Says on stderr what went wrong and returns -1. */
int make_root(const struct image *image, const struct volumes *volumes, char *const *binds, const struct user *user);

#endif
