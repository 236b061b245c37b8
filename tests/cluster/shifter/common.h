/* What the stand-ins for Shifter's command and for its SPANK plugin share: how they read images, volumes and
 * modules. All state lies below BASE, which every host of the cluster sees (install.py writes it). */
#ifndef COMMON_H
#define COMMON_H

#include <stddef.h>

#define BASE "/run/shifter"
#define SHIFTERIMG BASE "/bin/shifterimg"

struct image_name {
    char *type; /* docker, custom, id or local */
    char *tag;
};

struct volume {
    char *from;
    char *to;
    int read_only;
    long long cache; /* the size in bytes of a cache of the node's own, or 0 */
};

struct volumes {
    struct volume *list;
    size_t count;
};

/* printf into memory of its own */
char *format(const char *text, ...) __attribute__((format(printf, 1, 2)));

/* A copy without the characters that names may not have. */
char *filtered(const char *name, int slash);

/* 0, or -1 if there is no name left. */
int parse_image(const char *asked, struct image_name *name);

/* The id of an image, from the gateway where its type needs one; NULL if there is none for this user. */
char *lookup_image(const struct image_name *name);

/* Parse "from:to[:flags][;...]"; says on stderr what is wrong and returns -1. */
int parse_volumes(const char *asked, struct volumes *volumes);

/* Parse "a,b" into a list of the files of these modules, without any for "none"; -1 if one is unknown. */
int parse_modules(const char *asked, char ***files);

/* Hand every "key=value" line of a file to take(); -1 if there is no such file. */
int read_settings(const char *file, void (*take)(void *to, const char *key, const char *value), void *to);

/* The list, grown by one pointer and ended by NULL. */
char **append(char **list, char *item);

#endif
