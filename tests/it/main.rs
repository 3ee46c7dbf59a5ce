mod bundled_plugins;
