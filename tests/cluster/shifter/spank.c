/* A stand-in for Shifter's SPANK plugin: --image, --volume and --module of srun, salloc and sbatch. It looks the
 * image up where the job is submitted and hands everything on in the environment; it starts no container. */
#define _GNU_SOURCE
#include "common.h"

#include <slurm/spank.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Slurm names the variables that carry the options after the plugin. */
SPANK_PLUGIN(shifter, 1)

static struct image_name image;
static char *volumes, *modules;

static int submitting(void) {
    spank_context_t context = spank_context();
    return context == S_CTX_ALLOCATOR || context == S_CTX_LOCAL;
}

static int take_image(int value, const char *asked, int remote) {
    (void)value, (void)remote;
    if (!asked || !*asked) {
        slurm_error("Invalid image - must not be zero length");
        return ESPANK_SUCCESS;
    }
    if (parse_image(asked, &image)) {
        slurm_error("Invalid image input: could not determine image type: %s", asked);
        return ESPANK_ERROR;
    }
    return ESPANK_SUCCESS;
}

static int take_volume(int value, const char *asked, int remote) {
    struct volumes parsed = {0};
    (void)value, (void)remote;
    if (!asked || !*asked) {
        slurm_error("Invalid image volume options - if specified, must not be zero length");
        return ESPANK_ERROR;
    }
    if (parse_volumes(asked, &parsed)) {
        slurm_error("Failed to parse or invalid/disallowed volume map request: %s\n", asked);
        exit(1);
    }
    free(volumes);
    volumes = format("%s", asked); /* the last one only */
    return ESPANK_SUCCESS;
}

static int take_module(int value, const char *asked, int remote) {
    char **files;
    (void)value, (void)remote;
    if (!asked || !*asked) {
        slurm_error("Invalid shifter module options - if specified, must not be zero length");
        return ESPANK_ERROR;
    }
    if (parse_modules(asked, &files)) {
        slurm_error("Failed to parse or invalid module(s) requested: %s\n", asked);
        exit(1);
    }
    free(modules);
    modules = format("%s", asked);
    return ESPANK_SUCCESS;
}

int slurm_spank_init(spank_t spank, int argc, char **argv) {
    static struct spank_option options[] = {
        {"image", "image", "shifter image to use", 1, 0, take_image},
        {"volume", "volume", "shifter image bindings", 1, 0, take_volume},
        {"module", "module", "shifter module selection", 1, 0, take_module},
    };
    int long_options = 0, result = ESPANK_SUCCESS;
    for (int i = 0; i < argc; i++)
        long_options |= !strcmp(argv[i], "long_options");
    if (!submitting() && spank_context() != S_CTX_REMOTE)
        return ESPANK_SUCCESS;
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        if (long_options)
            options[i].name = format("shifter.%s", options[i].name);
        if (spank_option_register(spank, &options[i]) != ESPANK_SUCCESS)
            result = ESPANK_ERROR;
    }
    return result;
}

/* Each of the two reaches what the other one does not: the step's environment, and the job's. */
static void hand_on(spank_t spank, const char *name, const char *value) {
    spank_setenv(spank, name, value, 1);
    spank_job_control_setenv(spank, name, value, 1);
}

static void submit_image(spank_t spank) {
    char *request = NULL;
    if (strcmp(image.type, "id") && strcmp(image.type, "local")) {
        char *id = lookup_image(&image);
        if (!id) {
            slurm_error("Failed to lookup image.  Aborting.");
            exit(-1);
        }
        request = image.tag;
        image.type = "id";
        image.tag = id;
    }
    hand_on(spank, "SHIFTER_IMAGE", image.tag);
    hand_on(spank, "SHIFTER_IMAGETYPE", image.type);
    if (request)
        hand_on(spank, "SHIFTER_IMAGEREQUEST", request);
    spank_setenv(spank, "_SLURM_SPANK_OPTION_shifter_image", format("%s:%s", image.type, image.tag), 1);
}

int slurm_spank_init_post_opt(spank_t spank, int argc, char **argv) {
    (void)argc, (void)argv;
    if (volumes && !image.tag) {
        if (submitting()) {
            slurm_error("Cannot specify shifter volumes without specifying the image first!");
            exit(-1);
        }
        volumes = NULL;
    }
    if (submitting() && image.tag)
        submit_image(spank);
    if (volumes)
        hand_on(spank, "SHIFTER_VOLUME", volumes);
    if (modules)
        hand_on(spank, "SHIFTER_MODULE", modules);
    return ESPANK_SUCCESS;
}
