"""The files of the web page: plain HTML, CSS and JavaScript modules, served by the gateway as they are."""
