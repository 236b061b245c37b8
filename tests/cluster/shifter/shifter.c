/* A stand-in for Shifter's command, installed setuid root: it behaves like version 22.02.1 as far as a user's
 * program can tell, down to its words. It becomes the program that it is to run: same process, new root. */
#define _GNU_SOURCE
#include "common.h"
#include "root.h"

#include <ctype.h>
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define DELAY BASE "/delay"            /* the seconds that every set-up takes, if root wrote such a file */
static const char DEFAULT_DELAY[] = "0.1";
static const int SIGNALS[] = {SIGHUP, SIGINT, SIGTERM};
enum { SIGNAL_COUNT = sizeof SIGNALS / sizeof *SIGNALS };

struct options {
    struct image_name image;
    char *request; /* the image as it was asked for */
    char *volumes, *modules;
    char *env_file, *workdir, *entrypoint;
    char **env;
    int clear_env, use_entrypoint, use_workdir;
    char **command;
};

struct module {
    char **env;
    char **binds;
};

static void usage(int status) __attribute__((noreturn));
static void usage(int status) {
    printf("\nUsage:\nshifter [--image=TYPE:TAG] [--volume=FROM:TO[:FLAG]] [--module=NAME,...] [--env=NAME=VALUE]\n"
           "    [--env-file=FILE] [--clearenv] [--workdir[=DIR]] [--entrypoint[=CMD]] [--] CMD...\n\n");
    exit(status);
}

/* ---- what is asked for ---- */

static char *variable(const char *name) {
    char *spank = format("SLURM_SPANK_%s", name);
    char *value = getenv(name) ? getenv(name) : getenv(spank);
    free(spank);
    return value ? format("%s", value) : NULL;
}

/* Slurm's plugin hands a job's options on this way, and so do variables that somebody forgot. */
static void read_environment(struct options *options) {
    char *type = variable("SHIFTER_IMAGETYPE"), *tag = variable("SHIFTER_IMAGE");
    if (type && tag) {
        type = filtered(type, 0);
        tag = filtered(tag, !strcmp(type, "local") || !strcmp(type, "docker"));
        if (*type && *tag)
            options->image = (struct image_name){type, tag};
    }
    options->request = variable("SHIFTER_IMAGEREQUEST");
    if (options->request && !options->image.tag && parse_image(options->request, &options->image))
        options->image.tag = NULL;
    options->volumes = variable("SHIFTER_VOLUME");
    options->modules = variable("SHIFTER_MODULE");
}

static void take_image(struct options *options, const char *asked) {
    if (parse_image(asked, &options->image)) {
        fprintf(stderr, "Incorrect format for image identifier: need \"image_type:image_desc\", e.g., "
                        "docker:ubuntu:17.10\n");
        usage(1);
    }
    options->request = format("%s", asked);
}

static void take_variable(struct options *options, char *setting) {
    char *equals = strchr(setting, '=');
    if (!equals || equals == setting || !equals[1]) {
        fprintf(stderr, "Improperly formatted environment variable: %s\n", setting);
        exit(1);
    }
    options->env = append(options->env, setting);
}

/* The first volume of the command line puts those of the environment aside. */
static void take_volume(struct options *options, const char *asked) {
    static int seen;
    options->volumes = seen++ ? format("%s;%s", options->volumes, asked) : format("%s", asked);
}

static void read_options(struct options *options, int argc, char **argv) {
    enum { ENTRYPOINT = 1000, ENV_FILE };
    static const struct option known[] = {
        {"clearenv", no_argument, NULL, 'E'},      {"entrypoint", optional_argument, NULL, ENTRYPOINT},
        {"env", required_argument, NULL, 'e'},     {"env-file", required_argument, NULL, ENV_FILE},
        {"help", no_argument, NULL, 'h'},          {"image", required_argument, NULL, 'i'},
        {"module", required_argument, NULL, 'm'},  {"verbose", no_argument, NULL, 'v'},
        {"volume", required_argument, NULL, 'V'},  {"workdir", optional_argument, NULL, 'w'},
        {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "+hvV:i:e:Ew::m:", known, NULL)) != -1) {
        switch (option) {
        case 'i': take_image(options, optarg); break;
        case 'V': take_volume(options, optarg); break;
        case 'e': take_variable(options, optarg); break;
        case 'm': options->modules = optarg; break;
        case 'E': options->clear_env = 1; break;
        case 'w': options->use_workdir = 1, options->workdir = optarg; break;
        case 'v': break;
        case ENTRYPOINT: options->use_entrypoint = 1, options->entrypoint = optarg; break;
        case ENV_FILE: options->env_file = optarg; break;
        case 'h': usage(0);
        default: fprintf(stderr, "Missing an argument!\n"), usage(1);
        }
    }
    for (int i = optind; i < argc; i++)
        options->command = append(options->command, argv[i]);
    if (!options->image.tag) {
        fprintf(stderr, "No image specified, or specified incorrectly!\n");
        usage(1);
    }
}

/* ---- what there is ---- */

static char *find_image(const struct options *options) {
    /* the gateway knows the caller by his own uid */
    uid_t effective = geteuid();
    if (seteuid(getuid()))
        err(1, "seteuid");
    char *id = lookup_image(&options->image);
    if (seteuid(effective))
        err(1, "seteuid");
    if (!id) {
        fprintf(stderr, "FAILED to lookup %s image %s\n", options->image.type, options->image.tag);
        usage(1);
    }
    return id;
}

static void take_image_setting(void *to, const char *key, const char *value) {
    struct image *image = to;
    char *copy = format("%s", value);
    if (!strcmp(key, "tree"))
        image->tree = copy;
    else if (!strcmp(key, "delay"))
        image->delay = copy;
    else if (!strcmp(key, "users"))
        image->users = copy;
    else if (!strcmp(key, "workdir"))
        image->workdir = copy;
    else if (!strcmp(key, "env"))
        image->env = append(image->env, copy);
    else if (!strcmp(key, "entrypoint"))
        image->entrypoint = append(image->entrypoint, copy);
    else if (!strcmp(key, "cmd"))
        image->command = append(image->command, copy);
    else if (!strcmp(key, "hide"))
        image->hidden = append(image->hidden, copy);
}

static void take_module_setting(void *to, const char *key, const char *value) {
    struct module *module = to;
    if (!strcmp(key, "env"))
        module->env = append(module->env, format("%s", value));
    else if (!strcmp(key, "bind"))
        module->binds = append(module->binds, format("%s", value));
}

static void take_delay(void *to, const char *key, const char *value) {
    struct image *image = to;
    if (!strcmp(key, "seconds"))
        image->delay = format("%s", value);
}

static void read_image(const char *type, struct image *image) {
    image->delay = format("%s", DEFAULT_DELAY);
    read_settings(DELAY, take_delay, image);
    if (!strcmp(type, "local"))
        return; /* no tree: this site does not allow them */
    char *file = format(BASE "/images/%s.meta", image->id);
    if (strchr(image->id, '/') || read_settings(file, take_image_setting, image)) {
        fprintf(stderr, "FAILED to find requested image.\n");
        exit(1);
    }
    free(file);
}

static int may_read(const struct image *image, uid_t uid) {
    char *wanted = format(",%d,", (int)uid), *users = format(",%s,", image->users ? image->users : "");
    return !image->users || strstr(users, wanted);
}

/* The lines of /etc/group that name the user or are the user's own. */
static char *group_lines(const struct user *user) {
    char *lines = format("%s", "");
    for (int i = 0; i < user->count; i++) {
        struct group *group = getgrgid(user->groups[i]);
        if (group)
            lines = format("%s%s:x:%d:%s\n", lines, group->gr_name, (int)group->gr_gid, user->name);
    }
    return lines;
}

static void read_user(struct user *user) {
    struct passwd *entry = getpwuid(getuid());
    user->uid = getuid();
    user->gid = getgid();
    if (!user->uid || !entry) {
        fprintf(stderr, "Failed to lookup username or attempted to run as root.\n\n");
        exit(1);
    }
    user->name = format("%s", entry->pw_name);
    user->passwd = format("%s:x:%d:%d:%s:%s:%s\n", user->name, (int)user->uid, (int)user->gid, entry->pw_gecos,
                          entry->pw_dir, entry->pw_shell);
    user->count = sizeof user->groups / sizeof *user->groups;
    if (getgrouplist(user->name, user->gid, user->groups, &user->count) < 0)
        errx(1, "too many groups");
    user->group = group_lines(user);
}

static char **program(const struct options *options, const struct image *image) {
    static char shell[] = "/bin/sh";
    char **own = options->command, **argv = NULL;
    if (!options->use_entrypoint)
        return own ? own : append(NULL, shell);
    if (options->entrypoint) {
        argv = append(argv, options->entrypoint);
    } else if (image->entrypoint) {
        for (char **word = image->entrypoint; *word; word++)
            argv = append(argv, *word);
        if (!own)
            own = image->command;
    } else {
        fprintf(stderr, "Image does not have a defined entrypoint.\nError calculating run arguments\n");
        exit(1);
    }
    for (; own && *own; own++)
        argv = append(argv, *own);
    return argv;
}

/* ---- the environment ---- */

/* What the dynamic loader takes from every setuid program is no longer in it. */
static char **saved_environment(void) {
    extern char **environ;
    char **copy = append(NULL, NULL);
    for (char **entry = environ; *entry; entry++)
        copy = append(copy, format("%s", *entry));
    return copy;
}

/* NAME=VALUE; an empty value is none. */
static int set(char ***env, char *setting) {
    char *equals = strchr(setting, '=');
    if (!equals || !equals[1])
        return -1;
    for (char **entry = *env; *entry; entry++)
        if (!strncmp(*entry, setting, (size_t)(equals - setting) + 1)) {
            *entry = setting;
            return 0;
        }
    *env = append(*env, setting);
    return 0;
}

static void set_all(char ***env, char **settings) {
    for (; settings && *settings; settings++)
        set(env, *settings);
}

static void set_from_file(char ***env, const char *file) {
    char *line = NULL;
    size_t size = 0;
    int lines = 0;
    FILE *input = fopen(file, "re");
    if (!input)
        fprintf(stderr, "FAILED to open env-file: %s\n", file);
    for (; input && getline(&line, &size, input) >= 0; lines++) {
        char *start = line, *end = line + strlen(line);
        while (isspace((unsigned char)*start))
            start++;
        while (end > start && isspace((unsigned char)end[-1]))
            *--end = 0;
        if (*start && *start != '#' && set(env, format("%s", start))) {
            fprintf(stderr, "ERROR: Invalid env-file entry: %s\n", start);
            fclose(input);
            input = NULL;
        }
    }
    if (!input || !lines) {
        fprintf(stderr, "Failed to process env-file %s\n", file);
        exit(1);
    }
    fclose(input);
}

static char **environment(char **callers, const struct options *options, const struct image *image,
                          const struct module *modules) {
    static char runtime[] = "SHIFTER_RUNTIME=1";
    char **env = options->clear_env ? append(NULL, NULL) : callers;
    if (options->request)
        set(&env, format("SHIFTER_IMAGEREQUEST=%s", options->request));
    set(&env, format("SHIFTER_IMAGE=%s", image->id));
    set_all(&env, image->env);
    if (options->env_file)
        set_from_file(&env, options->env_file);
    set_all(&env, options->env);
    set_all(&env, modules->env);
    set(&env, runtime);
    for (char **entry = env; *entry; entry++)
        if (!strncmp(*entry, "PATH=", 5))
            setenv("PATH", *entry + 5, 1); /* where the program is looked for */
    return env;
}

/* ---- the change ---- */

static void become_user(const struct user *user) {
    for (int capability = 0; capability < 64; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) && errno != EINVAL) /* the kernel knows fewer */
            err(1, "Failed to restrict future capabilities");
    if (setgroups((size_t)user->count, user->groups) || setresgid(user->gid, user->gid, user->gid) ||
        setresuid(user->uid, user->uid, user->uid) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        err(1, "Failed to drop privileges");
}

static char *workdir(const struct options *options, const struct image *image) {
    if (!options->use_workdir)
        return getcwd(NULL, 0);
    char *chosen = options->workdir ? options->workdir : image->workdir;
    if (!chosen) {
        fprintf(stderr, "No workdir specified on command line or in image definition.\n");
        exit(1);
    }
    return chosen;
}

static void check_selection(const struct options *options, struct volumes *volumes, struct module *modules) {
    char **files = NULL;
    if (options->volumes && parse_volumes(options->volumes, volumes)) {
        fprintf(stderr, "Failed to parse volume map options\n");
        usage(1);
    }
    if (options->modules && parse_modules(options->modules, &files)) {
        fprintf(stderr, "Invalid shifter module selection: %s\n", options->modules);
        usage(1);
    }
    for (; files && *files; files++)
        read_settings(*files, take_module_setting, modules);
}

static void enter(const struct options *options, const struct image *image, const struct volumes *volumes,
                  const struct module *modules, const struct user *user) {
    char *directory = workdir(options, image);
    if (make_root(image, volumes, modules->binds, user)) {
        fprintf(stderr, "FAILED to setup image.\n");
        exit(1);
    }
    if (chdir(ROOT) || chroot(ROOT) || chdir("/"))
        err(1, "Could not chroot");
    become_user(user);
    if (!directory || chdir(directory))
        fprintf(stderr, "Failed to switch to working dir: %s, staying in /\n", directory ? directory : "");
}

int main(int argc, char **argv) {
    sighandler_t handlers[SIGNAL_COUNT];
    struct options options = {0};
    struct image image = {0};
    struct volumes volumes = {0};
    struct module modules = {0};
    struct user user = {0};
    for (int i = 0; i < SIGNAL_COUNT; i++)
        handlers[i] = signal(SIGNALS[i], SIG_IGN);
    char **callers = saved_environment();
    read_environment(&options);
    clearenv();
    read_options(&options, argc, argv);
    image.id = find_image(&options);
    check_selection(&options, &volumes, &modules);
    read_image(options.image.type, &image);
    char **run = program(&options, &image);
    if (geteuid()) {
        fprintf(stderr, "Not running with root privileges, will fail.\n");
        return 1;
    }
    read_user(&user);
    if (!may_read(&image, user.uid)) {
        fprintf(stderr, "FAILED permission denied to image\n");
        return 1;
    }
    enter(&options, &image, &volumes, &modules, &user);
    char **env = environment(callers, &options, &image, &modules);
    for (int i = 0; i < SIGNAL_COUNT; i++)
        signal(SIGNALS[i], handlers[i]);
    execvpe(run[0], run, env);
    fprintf(stderr, "%s: %s: %s\n", argv[0], run[0], strerror(errno));
    return 127;
}
