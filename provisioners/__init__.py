"""The login side: kernel provisioners for jupyter_client, and the `farkernel` command."""
