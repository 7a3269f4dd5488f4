# What `make dist` packs, and into what: a .deb and a tarball. packaging/dist.sh prepares what is generated (manual page,
# licences of the crates) in ${CMAKE_BINARY_DIR}/dist-files and then calls cpack.
include(GNUInstallDirs)
set(generated ${CMAKE_BINARY_DIR}/dist-files)
install(PROGRAMS ${CMAKE_BINARY_DIR}/mlx-flash DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES ${generated}/mlx-flash.1.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES README.md ARCHITECTURE.md CHANGELOG.md ${generated}/THIRD-PARTY-LICENSES.txt
        DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright)
install(FILES packaging/systemd/mlx-flash.service DESTINATION ${CMAKE_INSTALL_DATADIR}/mlx-flash/systemd)
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")
install(DIRECTORY models/classics-moe-4bit DESTINATION ${CMAKE_INSTALL_DATADIR}/mlx-flash/models)

set(CPACK_GENERATOR "DEB;TGZ")
set(CPACK_PACKAGE_NAME mlx-flash)
set(CPACK_PACKAGE_VENDOR "MLX-Flash contributors")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Runs large language models on the CPU, from the files you have")
set(CPACK_PACKAGE_FILE_NAME mlx-flash-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_MAINTAINER "MLX-Flash contributors <noreply@example.org>")
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_COMPRESSION_TYPE gzip)  # Quantised weights hardly compress; xz would take half a minute for nothing.
include(CPack)
