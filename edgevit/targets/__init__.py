"""The plug-in interface of the targets: Converter and Session, and the registry that finds them."""
