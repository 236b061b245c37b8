"""How a kernel's command is put inside an image: one module for each container runtime."""
